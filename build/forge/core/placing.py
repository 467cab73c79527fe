"""Puts a whole folder in place at once: whoever looks sees the old one or the new one.

Beside a folder `<name>` there are, while somebody places one or after he was killed at it:

- `.<name>.lock`, held by whoever places;
- `.<name>.new`, what is being put together; after the exchange, the old one until it is removed;
- `.<name>.old`, the old one for a moment, where the file system cannot exchange two folders.

The next that locks the folder puts back the old one, if nothing is in its place, and removes the
rest.
"""

import ctypes
import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from stat import S_IMODE, S_ISDIR, S_ISLNK

from forge.core import locks
from forge.core.store import delete, flush, flush_entry

_HERE = -100  # AT_FDCWD
_EXCHANGE = 2  # RENAME_EXCHANGE of linux/fs.h
# A kernel or a file system that has no exchange.
_NO_EXCHANGE = frozenset({errno.ENOSYS, errno.EINVAL, errno.ENOTSUP})


@contextmanager
def locked(target: Path) -> Iterator[None]:
    """Keeps others from placing anything at `target`, an absolute path; its parent is made.

    What a killed process left beside it is out of the way then.

    Raises:
        OSError: the system refuses the folder that `target` lies in.
    """
    if target.parent.exists() and not target.parent.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(target.parent))
    target.parent.mkdir(parents=True, exist_ok=True)
    with locks.held(_beside(target, "lock"), str(target)):
        recover(target)
        yield


def put(target: Path, fill: Callable[[Path], None]) -> None:
    """Has a new folder filled beside `target`, and puts it there; an old one is removed last.

    Call it under the lock. If it fails, `target` is what it was, and nothing is left beside it.

    Raises:
        OSError: the system refused; also whatever `fill` raises.
    """
    fresh = _beside(target, "new")
    try:
        fresh.mkdir()
        fill(fresh)
        _let_read(fresh)
        flush(fresh)
        if os.path.lexists(target):
            _exchange(fresh, target)
        else:
            fresh.rename(target)
        flush_entry(target)
    finally:
        recover(target)


def _let_read(folder: Path) -> None:
    """Has a folder and all in it readable by everybody and writable by the owner alone.

    So an archive of it is the same whatever the umask. A file of another user, in a store that is
    shared, keeps what its owner gave it.
    """
    for path in (folder, *folder.rglob("*")):
        stat = path.lstat()
        if S_ISLNK(stat.st_mode) or stat.st_uid != os.geteuid():
            continue
        old = S_IMODE(stat.st_mode)
        mode = 0o755 if S_ISDIR(stat.st_mode) else (old | 0o444) & 0o644
        if mode != old:
            path.chmod(mode)


def recover(target: Path) -> None:
    """Puts back an old folder that nothing has replaced, and removes what lies beside it."""
    fresh, old = _beside(target, "new"), _beside(target, "old")
    if os.path.lexists(old) and not os.path.lexists(target):
        old.rename(target)
        flush_entry(target)
    for left in (fresh, old):
        if os.path.lexists(left):
            delete(left)


def exchange(one: Path, other: Path) -> bool:
    """Exchanges two folders in one operation; False, and nothing done, where that cannot be.

    Raises:
        OSError: the system could, and refused.
    """
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        return False
    call.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    if call(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _NO_EXCHANGE:
        return False
    raise OSError(code, os.strerror(code), str(one), None, str(other))


def _exchange(fresh: Path, target: Path) -> None:
    """By two renames if need be; if it ends between them, `recover` takes the first one back."""
    if not exchange(fresh, target):
        target.rename(_beside(target, "old"))
        fresh.rename(target)


def _beside(target: Path, kind: str) -> Path:
    return target.with_name(f".{target.name}.{kind}")
