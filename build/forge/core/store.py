"""The store: results of steps, each under the hash of all that went into it.

A result is a folder `<store>/<step>/<key>/`. It enters and leaves the store by one rename, so it
is there whole or not at all. Its files are shared with `dist/` by hard links, so somebody may edit
them:

- A file whose stamp differs from its record is hashed again. If its bytes differ, the result is
  removed and made anew.
- A result with a file that its record does not list, or without a file that its step leaves, is set
  aside: moved to `aside/` and made anew.

Every process that uses a result holds its lock, so that no other process removes it.
"""

import datetime
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from forge.core import filesystem, locks, system_errors, walking
from forge.core.errors import StoreError
from forge.core.results import (
    FILES,
    NO_FILE,
    RECORD,
    USED,
    Leaves,
    Record,
    Result,
    moved_outputs,
    output_of,
    read_record,
    result_of,
    unlike,
)
from forge.core.store_folders import StoreFolders


class Store(StoreFolders):
    """The results under one folder; safe to use from several processes at once."""

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

        A result that is not intact is moved out of the way. It is removed if one of its files
        changed. It is set aside, and that is said, if its record does not fit, if the disk does not
        give one of its files, or if its lock file is not a file.

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
            moved = moved_outputs(folder / FILES, record)
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
            # Another user's record keeps the old stamps, and his files are hashed each time.
            with self._writing(), suppress(PermissionError):
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
                        path: output_of(files / path, known.get(path))
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

    def _record(self, folder: Path) -> Record | None:
        """The record of a result; None, and the result is set aside, if it does not stand for it.

        Raises:
            StoreError: the system does not let it be read, or the store be written.
        """
        path = folder / RECORD
        try:
            record = read_record(path)
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
