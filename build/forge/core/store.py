"""The store: results of steps, each under the hash of all that went into it.

A result is a folder `<store>/<step>/<key>/` with `files/` and `record.json`. It appears by one
rename, so it is there whole or not at all; a killed step leaves only a folder under `tmp/`, which
the next attempt at the same key removes. Results are shared with `dist/` by hard links, so a
result is trusted only while each file's size and modification time are those recorded; if they
moved, the file is hashed again, and a result whose bytes changed is dropped and made anew.
"""

import datetime
import errno
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from filelock import FileLock
from pydantic import Field, ValidationError

from forge.core import canonical
from forge.core.errors import StoreError
from forge.core.model import Maybe, Model, RelativePath, Sha256, Timestamp, mistake

RECORD = "record.json"


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


CHUNK = 1 << 22
# Two file systems; one that knows no links, or lets nobody link the files of others; a file with
# as many names as it can have. sshfs says ENOSYS.
CANNOT_LINK = frozenset(
    {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
)


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a step left: its folder of files and their digests by relative path."""

    step: str
    key: str
    files: Path
    digests: Mapping[str, str]
    record: Record


class Store:
    """The results under one folder; safe to use from several processes at once."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()

    @contextmanager
    def lock(self, step: str, key: str) -> Iterator[None]:
        """Keeps others from working on the same result meanwhile."""
        locks = self.root / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        with FileLock(locks / f"{step}-{key}.lock"):
            yield

    def get(self, step: str, key: str) -> Result | None:
        """The result under `key`, its files checked, or None if there is none that is intact.

        Raises:
            StoreError: its record cannot be read, or is that of another result.
        """
        folder = self.root / step / key
        record_path = folder / RECORD
        if not record_path.is_file():
            return None
        record = _read(record_path)
        if (record.step, record.key) != (step, key):
            raise StoreError(
                f"{record_path}: is the record of {record.step!r} under {record.key}; in this "
                f"folder it must be of {step!r} under {key}. Remove {folder}, which is then made "
                "again."
            )
        moved: dict[str, Output] = {}
        for path, output in record.outputs.items():
            file = folder / "files" / path
            now = stamp(file)
            if now == output.stamp:
                continue
            if now is None or not file.is_file() or canonical.sha256_file(file) != output.sha256:
                shutil.rmtree(folder)
                return None
            moved[path] = output.model_copy(update={"stamp": now})
        if moved:
            record = record.model_copy(update={"outputs": {**record.outputs, **moved}})
            _write(record_path, record)
        return _result(step, key, folder, record)

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
            StoreError: the disk refused (full, read-only); nothing was published.
        """
        folder = self.root / step / key
        scratch = self.root / "tmp" / f"{step}-{key}"
        started = datetime.datetime.now(datetime.UTC)
        try:
            shutil.rmtree(scratch, ignore_errors=True)
            files = scratch / "files"
            files.mkdir(parents=True)
            known = work(files) or {}
            finished = datetime.datetime.now(datetime.UTC)
            record = Record(
                **facts,
                step=step,
                key=key,
                started=started.isoformat(timespec="seconds"),
                finished=finished.isoformat(timespec="seconds"),
                seconds=round((finished - started).total_seconds(), 3),
                outputs={path: _output(files / path, known.get(path)) for path in _walk(files)},
            )
            (scratch / RECORD).write_bytes(record.encoded())
            _flush(scratch)
            folder.parent.mkdir(parents=True, exist_ok=True)
            scratch.rename(folder)
        except OSError as error:
            raise StoreError(
                f"{step}: cannot write the result to {error.filename or self.root}: "
                f"{error.strerror}. Nothing was published; free the disk and run again."
            ) from error
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return _result(step, key, folder, record)


def link(source: Path, target: Path) -> None:
    """Gives the bytes of `source` a second name, or copies them where they can have none.

    Raises:
        FileExistsError: there is a file at `target`; neither it nor `source` was touched.
        OSError: the disk refused for another reason than `CANNOT_LINK`; `target` is not there.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    source = source.resolve()
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in CANNOT_LINK:
            raise
        _copy(source, target)


def _copy(source: Path, target: Path) -> None:
    """Copies into a new file: an existing one may share its bytes with a result of the store."""
    with source.open("rb") as data, target.open("xb") as copy:
        try:
            shutil.copyfileobj(data, copy, CHUNK)
            copy.flush()
        except BaseException:
            target.unlink()
            raise
    shutil.copystat(source, target)


def own(path: Path) -> str | None:
    """Makes a file one of its own, if it shares its bytes with another name.

    Returns:
        The sha256 of what was copied, taken on the way; None if nothing had to be.
    """
    if path.stat().st_nlink == 1:
        return None
    fresh = path.with_name(f".{path.name}.own")
    digest = sha256()
    with path.open("rb", buffering=0) as source, fresh.open("wb") as copy:
        while chunk := source.read(CHUNK):
            digest.update(chunk)
            copy.write(chunk)
    shutil.copystat(path, fresh)
    fresh.replace(path)
    return digest.hexdigest()


def _output(file: Path, sha256: str | None) -> Output:
    stat = file.stat()
    return Output(
        sha256=sha256 or canonical.sha256_file(file), bytes=stat.st_size, stamp=_stamp(stat)
    )


def _read(path: Path) -> Record:
    try:
        return Record.parse(path.read_bytes())
    except (OSError, ValueError) as error:
        why = mistake(error) if isinstance(error, ValidationError) else str(error)
        raise StoreError(
            f"{path}: is no record of a result: {why}. Remove {path.parent} and run again; the "
            "result is then made anew."
        ) from error


def _write(path: Path, record: Record) -> None:
    """Replaces a record as a whole: whoever reads it meanwhile has the old one or the new one."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_bytes(record.encoded())
    fresh.replace(path)


def _result(step: str, key: str, folder: Path, record: Record) -> Result:
    digests = {path: output.sha256 for path, output in record.outputs.items()}
    return Result(step=step, key=key, files=folder / "files", digests=digests, record=record)


def stamp(path: Path) -> str | None:
    """Size and modification time, or None if it is no file; follows links to the bytes."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return _stamp(stat)


def _stamp(stat: os.stat_result) -> str:
    return f"{stat.st_size}:{stat.st_mtime_ns}"


def _walk(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )


def _flush(folder: Path) -> None:
    """Puts the files on the disk before the rename says that they are there."""
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                os.fsync(file.fileno())
