"""The folders of a store beside its results, and the locks of those who work in them.

- `locks/`: a file for every result that a process works on.
- `tmp/`: what is being made. Each folder has a lock that its owner holds.
- `trash/`: what is being removed.
- `aside/`: results that were set aside, because their record does not fit their files, the disk
  does not give a file, or their lock file is not a file; and downloads that the disk does not give.
  Nothing here is read again, and gc removes it only if asked.

Whoever begins to work removes what killed processes left in `locks/`, `tmp/` and `trash/`.
"""

import errno
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

from forge.core import console, filesystem, locks, mounts, signals, system_errors, walking
from forge.core.errors import StoreError
from forge.core.results import RECORD, SHORT

Made = TypeVar("Made")
# In a folder under `tmp/`: held by the owner for as long as it is in use.
OWNER = "owner"
MADE = "made"  # beside it: what is being made
# What lies beside the results of steps; the last three are kept by inputs, verify and reproduce.
APART = frozenset({"locks", "tmp", "trash", "aside", "hub", "failed", "reproduce"})
# What lies in these is removed. A link would have it removed from somebody else's folder.
EMPTIED = frozenset({"locks", "tmp", "trash", "aside", "reproduce"})


class StoreFolders:
    """What a store has beside results: locks, scratch folders, trash, and what was set aside."""

    def __init__(self, root: Path) -> None:
        self.root = filesystem.real(root)

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
                    # Others may look at it as at all of the store: gc reads the ledger in it.
                    mine = tmp / f"{name}-{uuid.uuid4().hex[:8]}"
                    mine.mkdir()
                    stack.callback(_discard, mine, locks.take(mine / OWNER, str(mine)))
                self._empty_trash()
                self._remove_free_locks()
                folder = mine / MADE
                folder.mkdir()
            yield folder

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

    def require_own(self) -> None:
        """Refuses a store in which a folder that is emptied is a link.

        Raises:
            StoreError: it names the link.
        """
        for name in sorted(EMPTIED):
            self._require_own(name)

    def clear(self, *, aside: bool = False) -> int:
        """Removes the leftovers; with `aside`, also what was set aside.

        Returns:
            How much the system did not let go. It stays, and each is named.

        Raises:
            StoreError: the store cannot be written, or a folder that is emptied is a link.
        """
        self.require_own()
        stuck = 0
        with self._writing():
            with self._beginning():
                pass
            for one in self.entries("reproduce"):
                of_rebuild = self._ready_lock_of("reproduce", one.name)
                lock = self._with_room(partial(locks.attempt, of_rebuild))
                if lock is not None:
                    try:
                        stuck += not self._throw_away(one)
                    finally:
                        lock.release()
            for one in self.entries("aside") if aside else ():
                stuck += not self._throw_away(one)
            stuck += self._empty_trash()
            self._remove_free_locks()
        return stuck

    def clear_rebuild(self, key: str) -> Path:
        """The place of a rebuild's own store, for whoever has its lock; nothing is there then.

        An earlier one is moved to the trash first, whatever of it can be removed.

        Raises:
            StoreError: the store cannot be written.
        """
        with self._writing():
            place = self._folder("reproduce") / key
            if filesystem.is_there(place):
                self._to(place, "trash")
                self._empty_trash()
            return place

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
                    self._throw_away(left)
            yield tmp
        finally:
            lock.release()

    def _empty_trash(self) -> int:
        """Removes what is in the trash, unless somebody is at it; how much of it stays."""
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
                    return 0
                stack.callback(lock.release)
            return sum(not filesystem.delete(left) for left in sorted(trash.iterdir()))

    def _remove_free_locks(self) -> None:
        """Removes the lock files that the killed left; whoever opened one meanwhile sees that."""
        for left in self.entries("locks"):
            if locks.is_held(left):
                continue
            if (lock := locks.attempt(left)) is not None:
                lock.release()

    def set_download_aside(self, blob: Path) -> Path:
        """Moves a download that the disk does not give out of the way; returns where it is.

        Raises:
            StoreError: the store cannot be written.
        """
        with self._writing():
            return self._to(blob, "aside")

    def _throw_away(self, path: Path) -> bool:
        """Moves something to the trash; False, and it is named, if it may not be."""
        try:
            self._to(path, "trash")
        except FileNotFoundError:
            return True  # its owner ended just now, and removed it
        except OSError as error:
            console.say(f"{path}: cannot be removed: {system_errors.told(error)}")
            return False
        return True

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
        folder = self._require_own(name)
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

    def _require_own(self, name: str) -> Path:
        """A folder of the store; refuses a link in the place of one that is emptied."""
        folder = self.root / name
        if name in EMPTIED and folder.is_symlink():
            raise StoreError(
                f"{folder}: is no folder, but a link, and the store would remove what lies there. "
                "Move it away, and run again."
            )
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
