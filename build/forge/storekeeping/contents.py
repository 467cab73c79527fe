"""What lies in a store, place by place: results, what is left over or set aside, and strangers."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from forge.core import filesystem, locks
from forge.core.errors import StoreError
from forge.core.results import USED
from forge.core.store import Store
from forge.core.store_folders import APART, EMPTIED, MADE, OWNER

_KEY = re.compile("[0-9a-f]{64}")
_MOUNTED = frozenset({"lost+found"})  # in a folder where a disk is mounted


def require_store(root: Path) -> Path:
    """Refuses a user's folder as a store, since what lies in its `tmp` or `trash` would be removed.

    A store is new, or has results, beside which others may keep what they like. Before its first
    result it has nothing but empty folders beside its own.

    Args:
        root: the folder that is named as the store.

    Returns:
        It.

    Raises:
        StoreError: it has no result, but something that no store has.
        OSError: the system does not let it be read.
    """
    store = Store(root)
    foreign = [
        one.name
        for one in store.entries()
        if one.name not in _MOUNTED | APART
        and not one.name.startswith(".")
        and not (one.is_dir() and not any(one.iterdir()))
    ]
    if foreign and not folders(store, []):
        raise StoreError(
            f"{root}: is not a store: it has {foreign[0]!r} and no result. A store removes what "
            "lies in its folders tmp and trash. Name an empty folder or a new one."
        )
    return root


def folders(store: Store, refused: list[OSError] | None = None) -> list[Path]:
    """The places of all results, `<step>/<key>`; what they hold is not looked at.

    Args:
        store: the store.
        refused: gets what the system says of a step's folder that it does not let be read.

    Raises:
        OSError: there is such a folder, and no such list.
    """
    return [one for one in _in_steps(store, refused) if _is_result(one)]


def strangers(store: Store) -> list[Path]:
    """Entries in the place of results that are not results, such as a user's notes."""
    steps = [one for one in store.entries() if one.name not in APART]
    return [
        *(one for one in steps if not one.is_dir()),
        *(one for one in _in_steps(store, []) if not _is_result(one)),
    ]


def blocked(store: Store, steps: Iterable[str]) -> list[Path]:
    """What each build stops at: no folder where the store or a step needs one, or no lock file.

    What is emptied may not be a link to one.
    """
    needed = [store.root / name for name in (*sorted(APART), *steps)]
    links = [one for one in needed if one.name in EMPTIED and one.is_symlink()]
    found = [one for one in needed if one in links or (os.path.lexists(one) and not one.is_dir())]
    if store.root / "locks" not in found:
        found += (one for one in store.entries("locks") if locks.is_foreign(one))
    return found


def leftovers(store: Store) -> list[Path]:
    """What the killed left, and the rebuilds that nobody works on any more."""
    return [
        *(one for one in store.entries("tmp") if not locks.is_held(one / OWNER)),
        *store.entries("trash"),
        *(
            one
            for one in store.entries("locks")
            if not locks.is_held(one) and not locks.is_foreign(one)
        ),
        *(
            one
            for one in store.entries("reproduce")
            if not locks.is_held(store.lock_of("reproduce", one.name))
        ),
    ]


def set_aside(store: Store) -> list[Path]:
    """What was set aside, since its record did not stand for it or nobody could hold it."""
    return store.entries("aside")


def in_use(store: Store, step: str, key: str) -> bool:
    """Whether somebody works on a result or uses it."""
    used = store.root / step / key / USED
    return locks.is_held(store.lock_of(step, key)) or locks.is_held(used)


def in_work(store: Store, name: str) -> list[Path]:
    """What has this name in scratch folders whose owners live, or may have it, unseen by others."""
    return [
        folder / MADE / name
        for folder in store.entries("tmp")
        if locks.is_held(folder / OWNER) and filesystem.is_there(folder / MADE / name)
    ]


def _in_steps(store: Store, refused: list[OSError] | None) -> list[Path]:
    found = []
    for step in store.entries():
        if step.name not in APART:
            try:
                found += store.entries(step.name)
            except OSError as error:
                if refused is None:
                    raise
                refused.append(error)
    return found


def _is_result(place: Path) -> bool:
    """Whether it is a result or lies in the place of one, as far as name and kind tell."""
    return (place.is_dir() and not place.is_symlink()) or _KEY.fullmatch(place.name) is not None
