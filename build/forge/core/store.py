"""The store: results of steps, each under the hash of all that went into it.

A result is a folder `<store>/<step>/<key>/` with `files/` and `record.json`. It appears by one
rename and goes by one, so it is there whole or not at all. Results are shared with `dist/` by hard
links, so a result is trusted only while each file's size and modification time are those recorded;
if they moved, the file is hashed again, and a result whose bytes changed is made anew. No result is
trusted that has a file which its record does not list, or lacks one that its step leaves. Beside
its record lies a lock that everybody who uses the result holds, in all processes of a build, so
that nobody removes it as unused.

Beside the results there are four folders:

- `locks/`: a file for every result that somebody works on. The next that begins to work removes
  those of the killed.
- `tmp/`: what is being made, each folder with a lock that its owner holds. The next that begins to
  work removes those whose owner is gone.
- `trash/`: what is being removed; the next that begins to work goes on with it.
- `aside/`: results whose record does not stand for them, with a file that the disk does not give,
  or that nobody can hold. Nothing here is read or removed again.
"""

import datetime
import errno
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field, ValidationError

from forge.core import (
    canonical,
    console,
    filesystem,
    locks,
    mounts,
    signals,
    system_errors,
    walking,
)
from forge.core.errors import StoreError
from forge.core.model import Maybe, Model, RelativePath, Sha256, Timestamp, mistake

RECORD = "record.json"
FILES = "files"


class Output(Model):
    """A file that a step left."""

    sha256: Sha256
    bytes: int
    stamp: str = Field(
        description="Size and modification time in ns: while they are these, it is not read again."
    )


class Record(Model):
    """`record.json`: what went into a result, when it was made, and the files that it has.

    The first five are the facts that its key is made of. A result that no step made, such as a
    calibration record that is taken over from a release, has none of them.
    """

    parameters: dict[str, Any] = Field(
        default_factory=dict, description="What decides the outcome besides the inputs."
    )
    needs: dict[str, dict[str, Sha256]] = Field(
        default_factory=dict, description="What was read: SHA-256 by step and path."
    )
    code: Maybe[Sha256] = Field(
        default=None, description="The SHA-256 of the modules that the step can reach."
    )
    distributions: dict[str, str] = Field(
        default_factory=dict, description="The versions of what those modules import, by name."
    )
    system: dict[str, str | None] = Field(
        default_factory=dict,
        description="Interpreter, processor and image; null where nothing pins it.",
    )
    step: str
    key: str = Field(description="The SHA-256 of the step's name and all of these facts.")
    started: Timestamp
    finished: Timestamp
    seconds: float
    outputs: dict[RelativePath, Output] = Field(description="What was written, by path.")


# The files that a result must have, by its record.
Leaves = Callable[[Record], Iterable[str]]
Made = TypeVar("Made")
SHORT = 12  # characters of a key that stand for it where people read it
# In a folder under `tmp/`: held by the owner for as long as it is in use.
OWNER = "owner"
MADE = "made"  # beside it: what is being made
# In a result: held by all who use it; its time is that of the last use.
USED = "used"
# What lies beside the results of steps; the last three are kept by inputs, verify and reproduce.
APART = frozenset({"locks", "tmp", "trash", "aside", "hub", "failed", "reproduce"})
MOST = 1 << 24  # bytes of a record, which has some 200 for each file
# What the system says of a stored file that is none: not there, or not to be had off the disk.
# Whatever else it says may pass, and tells nothing of the file.
NO_FILE = filesystem.NO_FILE | {
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EIO,
}  # fmt: skip
# And of a record, which is none if it is too large to be one.
_NO_RECORD = NO_FILE | {errno.EFBIG}


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a step left: its folder of files and their digests by relative path.

    While `use` is there, nobody removes the result as unused. `checked` says that all of its bytes
    were hashed since this build began, on writing or again; of others, sizes and times vouch.
    """

    step: str
    key: str
    files: Path
    digests: Mapping[str, str]
    record: Record
    use: locks.Shared | None = field(default=None, repr=False, compare=False)
    checked: bool = False

    def below(self, paths: tuple[str, ...] = ("",)) -> dict[Path, str]:
        """The digests of the files whose relative path begins with one of these, by their path."""
        return {
            self.files / path: digest
            for path, digest in self.digests.items()
            if path.startswith(paths)
        }


class Store:
    """The results under one folder; safe to use from several processes at once."""

    def __init__(self, root: Path) -> None:
        self.root = filesystem.real(root)

    @contextmanager
    def lock(self, step: str, key: str) -> Iterator[None]:
        """Keeps others from working on the same result meanwhile.

        Raises:
            StoreError: the store cannot be written.
        """
        with self._writing():
            lock = self._take(step, key)
        try:
            yield
        finally:
            lock.release()

    def get(self, step: str, key: str, leaves: Leaves = lambda _: ()) -> Result | None:
        """The result under `key`, its files checked, or None if there is none that is intact.

        What lies there and is none any more is out of the way then. It is removed if a file of it
        changed, and set aside, which is said, if its record does not stand for it, if the disk does
        not give a file of it, or if its lock file is none.

        Args:
            step: its step.
            key: its key.
            leaves: the files that it must have.

        Raises:
            StoreError: the system does not let it be read, or the store be written.
        """
        folder = self.root / step / key
        if not filesystem.is_there(folder):
            return None
        if (record := self._record(folder)) is None or (use := self._use(folder)) is None:
            return None
        try:
            moved = _moved(folder / FILES, record)
            wrong = None if moved is None else unlike(folder, record, leaves(record))
        except OSError as error:
            if error.errno not in NO_FILE:
                told = system_errors.told(error)
                raise StoreError(f"a result cannot be read: {told}.") from error
            wrong, moved = f"{error.filename}: {error.strerror}", {}
        if wrong is not None:
            self._set_aside(folder, wrong)
            return None
        if moved is None:
            self._remove(folder)
            return None
        if moved:
            record = record.model_copy(update={"outputs": {**record.outputs, **moved}})
            with self._writing():
                filesystem.replace(folder / RECORD, record.encoded())
        return result_of(folder, record, use)

    def make(
        self,
        step: str,
        key: str,
        work: Callable[[Path], Mapping[str, str] | None],
        facts: Mapping[str, Any],
    ) -> Result:
        """Runs `work` on an empty folder and publishes what it leaves there, all or nothing.

        `work` may return digests that it computed while writing; other files are hashed here.

        Raises:
            FileSystemError: the system refused a file to `work`; nothing was published.
            StoreError: the store cannot be written; nothing was published.
        """
        folder = self.root / step / key
        with self._writing():
            self._folder(step)  # before the work, which takes hours
        started = datetime.datetime.now(datetime.UTC)
        with self.scratch(f"{step}-{key}") as scratch:
            files = scratch / FILES
            with self._writing():
                files.mkdir()
            known = _worked(step, work, files)
            finished = datetime.datetime.now(datetime.UTC)
            with self._writing():
                record = Record(
                    **facts,
                    step=step,
                    key=key,
                    started=started.isoformat(timespec="seconds"),
                    finished=finished.isoformat(timespec="seconds"),
                    seconds=round((finished - started).total_seconds(), 3),
                    outputs={
                        path: _output(files / path, known.get(path))
                        for path in walking.files_below(files)
                    },
                )
                (scratch / RECORD).write_bytes(record.encoded())
                use = locks.Shared(scratch / USED)
                filesystem.flush(scratch)
                self._folder(step)
                scratch.rename(folder)
                filesystem.flush_entry(folder)
        return replace(result_of(folder, record, use), checked=True)

    @contextmanager
    def scratch(self, name: str) -> Iterator[Path]:
        """A new folder under `tmp/` that is removed at the end; `name` begins its parent's name.

        If this process is killed, the next that asks for one removes it. What other dead processes
        left is removed first.

        Raises:
            StoreError: the store cannot be written.
        """
        with ExitStack() as stack:
            with self._writing():
                # A folder that is being made has no owner yet, so none is looked at meanwhile.
                with self._beginning() as tmp, signals.held():
                    mine = Path(tempfile.mkdtemp(dir=tmp, prefix=f"{name}-"))
                    stack.callback(_discard, mine, locks.take(mine / OWNER, str(mine)))
                self._empty_trash()
                self._remove_free_locks()
                folder = mine / MADE
                folder.mkdir()
            yield folder

    @contextmanager
    def _beginning(self) -> Iterator[Path]:
        """The folder `tmp/`, in which nobody else begins meanwhile, without what the dead left."""
        lock = self._with_room(
            lambda: locks.take(self._folder("locks") / "tmp.lock", str(self.root))
        )
        try:
            tmp = self._folder("tmp")
            for left in sorted(tmp.iterdir()):
                if not locks.is_held(left / OWNER):
                    with suppress(FileNotFoundError):  # its owner ended just now, and removed it
                        self._to(left, "trash")
            yield tmp
        finally:
            lock.release()

    def lock_of(self, step: str, key: str) -> Path:
        """The lock file of those who work on a result; neither it nor its folder need be there."""
        return self.root / "locks" / f"{step}-{key}.lock"

    def entries(self, folder: str = "") -> list[Path]:
        """What is in a folder of the store, sorted; nothing, if it is not there.

        Raises:
            OSError: the system does not let it be read.
        """
        try:
            return sorted((self.root / folder).iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []

    def discard(self, step: str, key: str, *, unless: Callable[[], bool]) -> bool:
        """Moves a result to the trash, if nobody works on it or uses it; whether it did.

        Args:
            step: its step.
            key: its key.
            unless: is asked when nobody can begin to use the result any more; True keeps it.

        Raises:
            StoreError: the store cannot be written.
        """
        with self._writing(), ExitStack() as stack:
            folder = self.root / step / key
            used = folder / USED
            try:
                lock = self._with_room(lambda: locks.attempt(self._ready_lock_of(step, key)))
            except OSError as error:
                # Its own file locks it as well: nobody uses the result without that. It is the one
                # that is left where the disk has no room for another file.
                full = error.errno in system_errors.FULL
                if not full or used.is_symlink() or not used.is_file():
                    raise
            else:
                if lock is None:
                    return False
                stack.callback(lock.release)
            # What an earlier version made has no such file until it is used.
            free = stack.enter_context(locks.alone(used))
            if not free or not folder.is_dir() or unless():
                return False
            self._to(folder, "trash")
            return True

    def clear(self, *, aside: bool = False) -> None:
        """Removes the leftovers; with `aside`, also what was set aside.

        Raises:
            StoreError: the store cannot be written.
        """
        with self._writing():
            with self._beginning():
                pass
            for one in self.entries("reproduce"):
                of_rebuild = self._ready_lock_of("reproduce", one.name)
                lock = self._with_room(partial(locks.attempt, of_rebuild))
                if lock is not None:
                    try:
                        self._to(one, "trash")
                    finally:
                        lock.release()
            for one in self.entries("aside") if aside else ():
                self._to(one, "trash")
            self._empty_trash()
            self._remove_free_locks()

    def remove(self, result: Result, aside: str | None = None) -> None:
        """Removes a result, unless it is gone, or another is in its place by now.

        With the words of `aside`, which say why, it is set aside.

        Raises:
            StoreError: the store cannot be written.
        """
        folder = self.root / result.step / result.key
        with self._writing(), ExitStack() as stack:
            try:
                stack.callback(self._take(result.step, result.key).release)
            except OSError as error:
                if not _is_alone(result, error):
                    raise
            if result.use is not None and not locks.names(folder / USED, result.use.descriptor):
                return
            if aside is None:
                self._remove(folder)
            else:
                self._set_aside(folder, aside)

    def _remove(self, folder: Path) -> None:
        with self._writing():
            self._to(folder, "trash")
            self._empty_trash()

    def _empty_trash(self) -> None:
        """Removes what is in the trash, unless somebody is at it."""
        trash = self._folder("trash")
        with ExitStack() as stack:
            try:
                lock = locks.attempt(self._folder("locks") / "trash.lock")
            except OSError as error:
                # What is in the trash is nobody's any more: two at it are only slower.
                if error.errno not in system_errors.FULL:
                    raise
            else:
                if lock is None:
                    return
                stack.callback(lock.release)
            for left in sorted(trash.iterdir()):
                filesystem.delete(left)

    def _remove_free_locks(self) -> None:
        """Removes the lock files that the killed left; whoever opened one meanwhile sees that."""
        for left in self.entries("locks"):
            if locks.is_held(left):
                continue
            if (lock := locks.attempt(left)) is not None:
                lock.release()

    def _set_aside(self, folder: Path, why: str) -> None:
        with self._writing():
            there = self._to(folder, "aside")
        console.say(f"{why}. It is set aside as {there}, and the result is made anew.")

    def _to(self, folder: Path, kind: str) -> Path:
        """Renames a folder to a new place under `trash/` or `aside/`, by which it is out of use.

        A folder of a file system below another (overlayfs) cannot be renamed, nor one of another
        disk. Its record goes first then, without which it is no result any more.
        """
        unique = uuid.uuid4().hex[:12]
        place = (
            self._with_room(lambda: self._folder(kind))
            / f"{folder.parent.name}-{folder.name}-{unique}"
        )
        try:
            folder.rename(place)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            self._to_by_files(folder, place, keep=kind == "aside")
        return place

    def _to_by_files(self, folder: Path, place: Path, *, keep: bool) -> None:
        """As :meth:`_to`, file by file: all of them if they are kept, or else the record alone."""
        if not folder.is_dir() or folder.is_symlink():
            shutil.move(folder, place)
            return
        mounts.require_none(folder)
        place.mkdir()
        if os.path.lexists(folder / RECORD):
            shutil.move(folder / RECORD, place / RECORD)
        for path in walking.below(folder) if keep else ():
            there = place / path.relative_to(folder)
            if path.is_dir() and not path.is_symlink():
                there.mkdir(exist_ok=True)
            else:
                shutil.move(path, there)
        filesystem.remove_tree(folder)

    def _record(self, folder: Path) -> Record | None:
        """The record of a result; None, and the result is set aside, if it does not stand for it.

        Raises:
            StoreError: the system does not let it be read, or the store be written.
        """
        path = folder / RECORD
        try:
            record = _read(path)
        except ValueError as error:
            self._set_aside(folder, f"{path}: is no record of a result: {error}")
            return None
        if (record.step, record.key) != (folder.parent.name, folder.name):
            other = f"is the record of {record.step!r} under {record.key}"
            self._set_aside(folder, f"{path}: {other}")
            return None
        return record

    def _use(self, folder: Path) -> locks.Shared | None:
        """Holds a result that is there; None if it was removed just now, or cannot be held.

        One that cannot be held is set aside: somebody put something else in its lock file's place.
        """
        with self._writing():
            try:
                use = locks.Shared(folder / USED)
            except FileNotFoundError:
                return None
            except locks.NoLockFileError:
                self._set_aside(folder, f"{folder / USED}: is no regular file")
                return None
            return use if locks.names(folder / USED, use.descriptor) else None

    def _take(self, step: str, key: str) -> locks.Lock:
        return self._with_room(
            lambda: locks.take(self._ready_lock_of(step, key), f"{step} {key[:SHORT]}")
        )

    def _with_room(self, make: Callable[[], Made]) -> Made:
        """Makes a file or folder; on a full disk, again once what nobody has any more is gone."""
        try:
            return make()
        except OSError as error:
            if error.errno not in system_errors.FULL:
                raise
        self._empty_trash()
        self._remove_free_locks()
        return make()

    def _ready_lock_of(self, step: str, key: str) -> Path:
        """As :meth:`lock_of`, in a folder that is there."""
        return self._folder("locks") / self.lock_of(step, key).name

    def _folder(self, name: str) -> Path:
        folder = self.root / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except FileExistsError as error:
            if Path(error.filename) != folder:
                raise
            raise StoreError(
                f"{folder}: is no folder, and the store needs one of this name. Move it away, and "
                "run again."
            ) from error
        return folder

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Errors of the system within are those of the store."""
        try:
            yield
        except OSError as error:
            raise StoreError(
                f"the store {self.root} cannot be written: {system_errors.told(error, self.root)}"
            ) from error


def _worked(
    step: str, work: Callable[[Path], Mapping[str, str] | None], files: Path
) -> Mapping[str, str]:
    """The digests that a step's work knows; what the system refused it is told as that."""
    try:
        return work(files) or {}
    except OSError as error:
        if not system_errors.concerns_files(error):
            raise
        raise system_errors.of_files(error, step, files) from error


def _is_alone(result: Result, error: OSError) -> bool:
    """Whether nobody else uses a result, for which a full disk had no room for a lock file.

    It is its own file that is locked then: nobody begins to use the result without that one.
    """
    return (
        error.errno in system_errors.FULL
        and result.use is not None
        and locks.exclusive(result.use.descriptor)
    )


def _discard(mine: Path, owner: locks.Lock) -> None:
    """Removes a folder under `tmp/`; its lock goes last, so nobody else removes it meanwhile.

    What cannot be removed is left to the next that begins, who names it.
    """
    with signals.held():
        with suppress(OSError):
            mounts.require_none(mine)
            shutil.rmtree(mine / MADE, ignore_errors=True)
            shutil.rmtree(mine, ignore_errors=True)
        owner.release()


def record_of(folder: Path) -> Record | None:
    """The record of a result, or None if there is none that can be read.

    Raises:
        StoreError: the system does not let it be read, which says nothing of the record.
    """
    try:
        return _read(folder / RECORD)
    except ValueError:
        return None


def unlike(folder: Path, record: Record, leaves: Iterable[str]) -> str | None:
    """What shows that a record does not list what its result has, if anything does.

    Args:
        folder: the result's.
        record: its record.
        leaves: the files that it must have.

    Raises:
        OSError: the system does not let a folder of it be read, which says nothing of the result.
    """
    if lacking := sorted(set(leaves) - record.outputs.keys()):
        return f"{folder / RECORD}: does not list {lacking[0]}, which its step leaves"
    files = folder / FILES
    try:
        for path in walking.below(files):
            is_folder = path.is_dir() and not path.is_symlink()
            if not is_folder and path.relative_to(files).as_posix() not in record.outputs:
                return f"{path}: is not in the record of the result that it lies in"
    except OSError as error:
        if error.errno not in NO_FILE:
            raise
        return f"{error.filename}: {error.strerror}"
    return None


def _moved(files: Path, record: Record) -> dict[str, Output] | None:
    """The outputs whose size or time is another, as they are now; None if the bytes are others.

    Raises:
        OSError: a file cannot be looked at or read.
    """
    moved = {}
    for path, output in record.outputs.items():
        file = files / path
        now = stamp(file)
        if now == output.stamp:
            continue
        if now is None or not file.is_file() or not now.startswith(f"{output.bytes}:"):
            return None
        with filesystem.naming(file):
            if canonical.sha256_file(file) != output.sha256:
                return None
        moved[path] = output.model_copy(update={"stamp": now})
    return moved


def _output(file: Path, sha256: str | None) -> Output:
    stat = file.stat()
    return Output(
        sha256=sha256 or canonical.sha256_file(file), bytes=stat.st_size, stamp=_stamp(stat)
    )


def _read(path: Path) -> Record:
    """The record in a file.

    Raises:
        ValueError: it is none.
        StoreError: the system does not let it be read, which says nothing of the record.
    """
    try:
        return Record.parse(filesystem.read(path, MOST))
    except ValidationError as error:
        raise ValueError(mistake(error)) from error
    except OSError as error:
        if error.errno in _NO_RECORD:
            raise ValueError(error.strerror) from error
        raise StoreError(f"a record cannot be read: {system_errors.told(error)}.") from error


def result_of(folder: Path, record: Record, use: locks.Shared) -> Result:
    """The result in a folder, as its record has it; nothing of it is looked at."""
    return Result(
        step=record.step,
        key=record.key,
        files=folder / FILES,
        digests={path: output.sha256 for path, output in record.outputs.items()},
        record=record,
        use=use,
    )


def stamp(path: Path) -> str | None:
    """Size and modification time, or None if it is not there; follows links to the bytes.

    Raises:
        OSError: the system does not tell, which says nothing of the file.
    """
    try:
        stat = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return _stamp(stat)


def _stamp(stat: os.stat_result) -> str:
    return f"{stat.st_size}:{stat.st_mtime_ns}"
