"""Whether stored bytes are what was recorded: they are hashed, whatever their size and time say."""

import errno
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from forge.core import console, filesystem
from forge.core.errors import StoreError
from forge.core.store import NO_RECORD, SHORT, Result, Store

_CHUNK = 1 << 22


class Damage(NamedTuple):
    """What is wrong with a stored file; one that cannot be read may be whole."""

    why: str
    unreadable: bool = False


def require_recorded(files: Mapping[Path, str], results: Iterable[Result]) -> None:
    """Hashes stored files; what is not what was recorded leaves the store.

    Args:
        files: what is to be hashed, each with the digest that was recorded.
        results: those that the files are of.

    Raises:
        StoreError: a file is not what was recorded. It is named, and the results that have such
            files are removed; those that have one that cannot be read are set aside.
    """
    wrong = damaged(files)
    if not wrong:
        return
    gone = [one for one in results if drop(one, wrong)]
    names = ", ".join(f"{one.step} {one.key[:SHORT]}" for one in gone)
    raise StoreError(
        f"{next(iter(wrong.values())).why}. The stored file cannot be trusted. Removed from the "
        f"store: {names}. Run again, which makes that anew."
    )


def drop(result: Result, wrong: Mapping[Path, Damage]) -> bool:
    """Removes a result that has a damaged file, or sets it aside if one cannot be read."""
    own = [damage for path, damage in wrong.items() if path.is_relative_to(result.files)]
    unreadable = next((damage.why for damage in own if damage.unreadable), None)
    if own:
        Store(result.files.parents[2]).remove(result, unreadable)
    return bool(own)


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
        if isinstance(one, OSError) and one.errno not in NO_RECORD:
            refused.append(one)
        elif isinstance(one, OSError):
            wrong[path] = Damage(f"{path}: {one.strerror}", unreadable=one.errno == errno.EIO)
        elif one != recorded:
            wrong[path] = Damage(f"{path}: has sha256 {one}, recorded was {recorded}")
    return wrong, refused


def _read_again(path: Path, advance: Callable[[int], None]) -> str | OSError:
    digest = sha256()
    try:
        with filesystem.opened(path) as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
                advance(len(chunk))
    except OSError as error:
        return error
    return digest.hexdigest()
