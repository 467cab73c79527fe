"""Hashes every file of every result, and removes the results that are not what was recorded."""

from forge.core import console, locks
from forge.core.errors import StoreError
from forge.core.store import SHORT, USED, Record, Result, Store, damaged, drop, record_of


def fsck(store: Store) -> None:
    """Compares all that is stored with its records; says what was damaged, and what is left over.

    Builds may run meanwhile; only a result that is damaged is locked.

    Raises:
        StoreError: something was damaged, or the store cannot be written.
        OSError: the system does not let a file be read.
    """
    wrong, folders = 0, store.folders()
    for folder in folders:
        step, key = folder.parent.name, folder.name
        record = record_of(folder)
        if record is None or (record.step, record.key) != (step, key):
            # What is set aside is said there; what a build removed meanwhile is not there.
            with store.lock(step, key):
                wrong += folder.exists() and store.get(step, key) is None
            continue
        wrong += not _is_whole(store, record)
    for path in store.leftovers():
        console.say(f"{path.relative_to(store.root)}: is left over")
    for path in store.set_aside():
        console.say(f"{path.relative_to(store.root)}: was set aside")
    if wrong:
        raise StoreError(
            f"{store.root}: {wrong} of {len(folders)} results were damaged and are gone. The next "
            "build makes anew what it needs of them. The disk may be failing."
        )
    console.say(f"{store.root}: {len(folders)} results are what was recorded")


def _is_whole(store: Store, record: Record) -> bool:
    """Whether a result is what was recorded; if not, it is removed, and each file is said."""
    folder = store.root / record.step / record.key
    try:
        use = locks.Shared(folder / USED, touch=False)
    except FileNotFoundError:
        return True  # a build has removed it
    digests = {path: output.sha256 for path, output in record.outputs.items()}
    result = Result(
        step=record.step, key=record.key, files=folder / "files", digests=digests,
        record=record, use=use,
    )  # fmt: skip
    wrong = damaged(result.below())
    if not wrong or not locks.names(folder / USED, use.descriptor):
        return True
    for damage in wrong.values():
        console.say(f"{record.step} {record.key[:SHORT]}: {damage.why}")
    drop(result, wrong)
    return False
