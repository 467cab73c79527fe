"""Hashes every file of every result; those that are not what was recorded leave their place."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from forge.core import console, filesystem, locks, system_errors
from forge.core.errors import FileSystemError, StoreError
from forge.core.integrity import ASIDE, drop, examined
from forge.core.results import SHORT, USED, Result, record_of, result_of, unlike
from forge.core.store import Store
from forge.pipeline import STEPS, leaves_of
from forge.storekeeping import contents

LEFT = "left in place"  # what the system lets nobody move who is not its owner


def fsck(store: Store) -> None:
    """Compares all that is stored with its records; says what was damaged, and what is left over.

    What the system does not let be read is said, and the rest is looked at all the same. Builds may
    run meanwhile; only a result that is damaged is locked.

    Raises:
        StoreError: something was damaged, or a folder that the store needs is none.
        FileSystemError: the system did not let something be read or removed; else all is well.
    """
    wrong: Counter[str] = Counter()
    unchecked = 0
    unread: list[OSError] = []
    folders = contents.folders(store, unread)
    for error in unread:
        console.say(system_errors.told(error))
    for folder in folders:
        try:
            if (became := _became(store, folder)) is not None:
                wrong[became] += 1
        except (StoreError, OSError) as error:
            unchecked += 1
            text = system_errors.told(error) if isinstance(error, OSError) else str(error)
            console.say(f"{folder.parent.name} {folder.name[:SHORT]}: {text}")
    there = contents.blocked(store, (step.name for step in STEPS))
    blocked = [path.relative_to(store.root) for path in there]
    _tell_others(store, blocked)
    if wrong or blocked:
        raise StoreError(f"{store.root}: {_outcome(wrong, len(folders), unchecked, blocked)}")
    if unchecked or unread:
        raise FileSystemError(
            f"{store.root}: {unchecked} of {len(folders)} results and {len(unread)} folders could "
            "not be checked, each of which is named above. The others are what was recorded."
        )
    console.say(f"{store.root}: {len(folders)} results are what was recorded")


def _outcome(wrong: Counter[str], total: int, unchecked: int, blocked: list[Path]) -> str:
    said = []
    if wrong:
        each = ", ".join(f"{number} {became}" for became, number in sorted(wrong.items()))
        said.append(
            f"{wrong.total()} of {total} results were damaged: {each}. The next build makes anew "
            "what it needs of them. The disk may be failing."
        )
    if wrong[LEFT]:
        said.append("What was left in place is named above with the reason; its owner can move it.")
    if unchecked:
        said.append(f"{unchecked} of {total} could not be checked, which are named above.")
    if blocked:
        names = ", ".join(map(str, blocked))
        said.append(f"No build can use the store until these are moved away: {names}.")
    return " ".join(said)


def _tell_others(store: Store, blocked: list[Path]) -> None:
    """Says what else lies there: of killed processes, set aside, or of somebody else."""
    for path in blocked:
        what = "folder" if path.parent == Path() else "lock file"
        console.say(f"{path}: is no {what}, and the store needs one")
    for path in contents.leftovers(store):
        console.say(f"{path.relative_to(store.root)}: is left over")
    for path in contents.set_aside(store):
        console.say(f"{path.relative_to(store.root)}: was set aside")
    for path in contents.strangers(store):
        if path.relative_to(store.root) not in blocked:
            console.say(f"{path.relative_to(store.root)}: is no result; it is left as it is")


def _became(store: Store, folder: Path) -> str | None:
    """What became of a result that is not what was recorded, which is said; None if it is, or gone.

    Raises:
        OSError: a file of it cannot be read, and those that can be are what was recorded.
        StoreError: its record cannot be read.
    """
    step, key = folder.parent.name, folder.name
    record = record_of(folder)
    if record is not None and (record.step, record.key) == (step, key):
        try:
            use = locks.Shared(folder / USED, touch=False)
        except FileNotFoundError:
            return None  # a build has removed it
        except locks.NoLockFileError:
            pass  # it is set aside
        else:
            return _compared(store, result_of(folder, record, use), use)

    def set_aside() -> str | None:
        # What is set aside is said there; what a build removed meanwhile is not there.
        with store.lock(step, key):
            whole = not filesystem.is_there(folder) or store.get(step, key, leaves_of) is not None
            return None if whole else ASIDE

    return _moved(folder, set_aside)


def _compared(store: Store, result: Result, use: locks.Shared) -> str | None:
    folder = result.files.parent
    wrong, refused = examined(result.below())
    other = unlike(folder, result.record, leaves_of(result.record))
    if not locks.names(folder / USED, use.descriptor):
        return None
    if wrong:
        for damage in wrong.values():
            console.say(f"{result.step} {result.key[:SHORT]}: {damage.why}")
        return _moved(folder, lambda: drop(result, wrong))
    if refused:
        raise refused[0]
    if other is None:
        return None

    def set_aside() -> str:
        store.remove(result, aside=other)
        return ASIDE

    return _moved(folder, set_aside)


def _moved(folder: Path, move: Callable[[], str | None]) -> str | None:
    """What became of a result that is not what was recorded; `LEFT` if it may not be moved."""
    try:
        return move()
    except StoreError as error:
        console.say(f"{folder.parent.name} {folder.name[:SHORT]}: {error}")
        return LEFT
