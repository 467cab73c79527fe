"""Hashes every file of every result, and removes the results that are not what was recorded."""

import os
from pathlib import Path

from forge.core import console, locks, system_errors
from forge.core.errors import FileSystemError, StoreError
from forge.core.integrity import drop, examined
from forge.core.store import SHORT, USED, Result, Store, record_of, result_of
from forge.pipeline import STEPS
from forge.storekeeping import contents


def fsck(store: Store) -> None:
    """Compares all that is stored with its records; says what was damaged, and what is left over.

    What the system does not let be read is said, and the rest is looked at all the same. Builds may
    run meanwhile; only a result that is damaged is locked.

    Raises:
        StoreError: something was damaged, or a folder that the store needs is none.
        FileSystemError: the system did not let something be read or removed; else all is well.
    """
    wrong = unchecked = 0
    unread: list[OSError] = []
    folders = contents.folders(store, unread)
    for error in unread:
        console.say(system_errors.told(error))
    for folder in folders:
        try:
            wrong += not _is_whole(store, folder)
        except (StoreError, OSError) as error:
            unchecked += 1
            text = system_errors.told(error) if isinstance(error, OSError) else str(error)
            console.say(f"{folder.parent.name} {folder.name[:SHORT]}: {text}")
    blocked = contents.blocked(store, (step.name for step in STEPS))
    _tell_others(store, blocked)
    if wrong or blocked:
        raise StoreError(f"{store.root}: {_outcome(wrong, len(folders), unchecked, blocked)}")
    if unchecked or unread:
        raise FileSystemError(
            f"{store.root}: {unchecked} of {len(folders)} results and {len(unread)} folders could "
            "not be checked, each of which is named above. The others are what was recorded."
        )
    console.say(f"{store.root}: {len(folders)} results are what was recorded")


def _outcome(wrong: int, total: int, unchecked: int, blocked: list[Path]) -> str:
    said = []
    if wrong:
        said.append(
            f"{wrong} of {total} results were damaged and are gone. The next build makes anew what "
            "it needs of them. The disk may be failing."
        )
    if unchecked:
        said.append(f"{unchecked} of {total} could not be checked, which are named above.")
    if blocked:
        names = ", ".join(path.name for path in blocked)
        said.append(f"No build can use the store until these are moved away: {names}.")
    return " ".join(said)


def _tell_others(store: Store, blocked: list[Path]) -> None:
    """Says what else lies there: of killed processes, set aside, or of somebody else."""
    for path in blocked:
        console.say(f"{path.relative_to(store.root)}: is no folder, and the store needs one")
    for path in contents.leftovers(store):
        console.say(f"{path.relative_to(store.root)}: is left over")
    for path in contents.set_aside(store):
        console.say(f"{path.relative_to(store.root)}: was set aside")
    for path in contents.strangers(store):
        if path not in blocked:
            console.say(f"{path.relative_to(store.root)}: is no result; it is left as it is")


def _is_whole(store: Store, folder: Path) -> bool:
    """Whether a result is what was recorded, or gone; if not, it is removed, and that is said.

    Raises:
        OSError: a file of it cannot be read, and those that can be are what was recorded.
        StoreError: its record cannot be read, or it cannot be removed.
    """
    step, key = folder.parent.name, folder.name
    record = record_of(folder)
    if record is not None and (record.step, record.key) == (step, key):
        try:
            use = locks.Shared(folder / USED, touch=False)
        except FileNotFoundError:
            return True  # a build has removed it
        except locks.NoLockFileError:
            pass  # it is set aside
        else:
            return _is_as_recorded(result_of(folder, record, use), use)
    # What is set aside is said there; what a build removed meanwhile is not there.
    with store.lock(step, key):
        return not os.path.lexists(folder) or store.get(step, key) is not None


def _is_as_recorded(result: Result, use: locks.Shared) -> bool:
    wrong, refused = examined(result.below())
    if not locks.names(result.files.with_name(USED), use.descriptor):
        return True
    if refused and not wrong:
        raise refused[0]
    if not wrong:
        return True
    for damage in wrong.values():
        console.say(f"{result.step} {result.key[:SHORT]}: {damage.why}")
    drop(result, wrong)
    return False
