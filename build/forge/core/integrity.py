"""Hashes stored files again, whatever their size and time say, and compares with their record."""

import errno
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from forge.core import console
from forge.core.errors import StoreError
from forge.core.files import sha256_of
from forge.core.results import NO_FILE, SHORT, Result
from forge.core.store import Store

# What became of a result, and how that is told.
REMOVED, ASIDE = "removed", "set aside"
_TOLD = {REMOVED: "Removed from the store", ASIDE: "Set aside in the store"}


class Damage(NamedTuple):
    """What is wrong with a stored file, which may have other names; if unreadable, it may be whole.

    `inode` is device and number of the file, where it is there.
    """

    why: str
    unreadable: bool = False
    inode: tuple[int, int] | None = None


def require_recorded(files: Mapping[Path, str], results: Iterable[Result]) -> None:
    """Hashes stored files; what is not what was recorded leaves the store.

    Args:
        files: the files to hash, each with the digest that was recorded.
        results: those that the files are of, and others that may have the same ones.

    Raises:
        StoreError: a file is not what was recorded. It is named, and the results that have such
            files are removed; those that have one that cannot be read are set aside.
    """
    wrong = damaged(files)
    if not wrong:
        return
    first = next(iter(wrong.values()))
    gone: dict[str, list[str]] = {}
    for one in results:
        if (how := drop(one, wrong)) is not None:
            gone.setdefault(how, []).append(f"{one.step} {one.key[:SHORT]}")
    names = ". ".join(f"{_TOLD[how]}: {', '.join(which)}" for how, which in gone.items())
    raise StoreError(
        f"{first.why}. The stored file cannot be {'read' if first.unreadable else 'trusted'}. "
        f"{names}. Run again, which makes that anew."
    )


def drop(result: Result, wrong: Mapping[Path, Damage]) -> str | None:
    """Removes a result that has a damaged file, or sets it aside if one cannot be read.

    A result has the file also under another name: what one step links, another one made.

    Returns:
        Which of the two, or None if it has no such file.
    """
    shared = {inode for path in result.below() if (inode := _inode(path)) is not None}
    own = [
        damage
        for path, damage in wrong.items()
        if path.is_relative_to(result.files) or damage.inode in shared
    ]
    if not own:
        return None
    unreadable = next((damage.why for damage in own if damage.unreadable), None)
    Store(result.files.parents[2]).remove(result, unreadable)
    return REMOVED if unreadable is None else ASIDE


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_dev, stat.st_ino


def damaged(files: Mapping[Path, str]) -> dict[Path, Damage]:
    """What is wrong with stored files, by path; bytes with several names are read once.

    Args:
        files: the digest that was recorded, by path.

    Raises:
        OSError: the system does not let a file be read, which says nothing of its bytes.
    """
    wrong, refused = examined(files)
    if refused:
        raise refused[0]
    return wrong


def examined(files: Mapping[Path, str]) -> tuple[dict[Path, Damage], list[OSError]]:
    """As :func:`damaged`, and what the system said of each file that it does not let be read."""
    stats: dict[Path, tuple[int, int]] = {}
    found: dict[Path, str | OSError] = {}
    total = 0
    for path in files:
        try:
            stat = path.stat()
        except OSError as error:
            found[path] = error
            continue
        if (inode := (stat.st_dev, stat.st_ino)) not in stats.values():
            total += stat.st_size
        stats[path] = inode
    with console.bytes_bar("checking", total) as advance, ThreadPoolExecutor(2) as pool:
        first = {inode: path for path, inode in reversed(stats.items())}
        read = pool.map(lambda path: _read_again(path, advance), first.values())
        by_inode = dict(zip(first, read, strict=True))
    found |= {path: by_inode[inode] for path, inode in stats.items()}
    wrong: dict[Path, Damage] = {}
    refused = []
    for path, recorded in files.items():
        one = found[path]
        if isinstance(one, OSError) and one.errno not in NO_FILE:
            refused.append(one)
        elif isinstance(one, OSError):
            why, lost = f"{path}: {one.strerror}", one.errno == errno.EIO
            wrong[path] = Damage(why, unreadable=lost, inode=stats.get(path))
        elif one != recorded:
            why = f"{path}: has sha256 {one}, recorded was {recorded}"
            wrong[path] = Damage(why, inode=stats[path])
    return wrong, refused


def _read_again(path: Path, advance: Callable[[int], None]) -> str | OSError:
    try:
        return sha256_of(path, advance=advance)
    except OSError as error:
        return error
