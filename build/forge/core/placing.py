"""Puts a whole folder or file in place at once: whoever looks sees the old one or the new one.

Beside a folder or file `<name>` there are, while somebody places one or after he was killed at it:

- `.<name>.hallmark-lock`, held by whoever places;
- `.<name>.hallmark-new`, what is being put together; after the exchange, the old one until it is
  removed;
- `.<name>.hallmark-old`, the old one for a moment, where the file system cannot exchange two
  folders.

The names are Hallmark's own, so that no file of a user is taken for one of them. The next that
locks the name puts back the old folder, if nothing is in its place, and removes the rest.
"""

import ctypes
import errno
import os
import shlex
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_IMODE, S_ISDIR, S_ISLNK

from forge.core import console, locks, mounts, signals, system_errors, walking
from forge.core.errors import FileSystemError
from forge.core.filesystem import (
    CANNOT_LINK,
    beside,
    delete,
    flush,
    flush_entry,
    link,
    real,
    replace,
)

_HERE = -100  # AT_FDCWD
_EXCHANGE = 2  # RENAME_EXCHANGE of linux/fs.h
# A kernel or a file system that has no exchange.
_NO_EXCHANGE = frozenset({errno.ENOSYS, errno.EINVAL, errno.ENOTSUP})


def holds_something(folder: Path) -> bool:
    """Whether it is a folder with something in it."""
    return folder.is_dir() and not _is_empty(folder)


@contextmanager
def locked(target: Path, whole: Callable[[Path], bool] = holds_something) -> Iterator[None]:
    """Keeps others from placing a folder at `target`, an absolute path; its parent is made.

    What a killed process left beside it is out of the way then.

    Args:
        target: the folder.
        whole: whether a folder can be what was placed there.

    Raises:
        OSError: the system refuses the folder that `target` lies in, or something is mounted at or
            below `target`, which would be removed with it. Nothing was written.
        FileSystemError: something else stands where a folder belongs that was put aside.
    """
    with _locked(target):
        recover(target, whole)
        yield


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    """Locks the name of a folder or of a file; what lies beside it is not touched."""
    mounts.require_none(target)
    if target.parent.exists() and not target.parent.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(target.parent))
    target.parent.mkdir(parents=True, exist_ok=True)
    with locks.held(beside(target, "lock"), str(target)):
        yield


@contextmanager
def _locked_file(path: Path) -> Iterator[Path]:
    """Locks the name of a file and gives that of the new one, which is gone before and after.

    A file has no old one beside it: it is replaced by one rename.
    """
    fresh = beside(path, "new")
    with _locked(path):
        _remove(fresh)
        try:
            yield fresh
        finally:
            with signals.held():
                _remove(fresh)


def put(target: Path, fill: Callable[[Path], None]) -> None:
    """Has a new folder filled beside `target`, and puts it there; an old one is removed last.

    Call it under the lock. If it fails, `target` is what it was, and nothing is left beside it.

    Raises:
        FileSystemError: the old one cannot be renamed, because an overlay has it from an image.
        OSError: the system refused; also whatever `fill` raises.
    """
    fresh = beside(target, "new")
    try:
        if target.is_dir() and not os.access(target, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(target))
        fresh.mkdir()
        fill(fresh)
        _let_read(fresh)
        flush(fresh)
        mounts.require_none(target)  # again: to wait for the lock and to fill may take hours
        if os.path.lexists(target):
            _keep_owner(target, fresh)
            within = _is_within(target)
            _exchange(fresh, target)
            if within:
                console.say(f"{target} is a new folder now. Change to it again to see it.")
        else:
            fresh.rename(target)
        flush_entry(target)
    finally:
        with signals.held():
            recover(target)


def _let_read(folder: Path) -> None:
    """Has a folder and all in it readable by everybody and writable by the owner alone.

    So an archive of it is the same whatever the umask. A file of another user, in a store that is
    shared, keeps what its owner gave it.
    """
    for path in (folder, *walking.below(folder)):
        stat = path.lstat()
        if S_ISLNK(stat.st_mode) or stat.st_uid != os.geteuid():
            continue
        old = S_IMODE(stat.st_mode)
        mode = 0o755 if S_ISDIR(stat.st_mode) else (old | 0o444) & 0o644
        if mode != old:
            path.chmod(mode)


def keep(names: Iterable[str], target: Path, fresh: Path) -> None:
    """Gives files of a folder another name in the one that is to take its place.

    They are copied where the file system has no links.

    Raises:
        OSError: the system refused.
    """
    for name in names:
        folder = (fresh / name).parent
        folder.mkdir(parents=True, exist_ok=True)
        try:
            os.link(target / name, fresh / name, follow_symlinks=False)
        except OSError as error:
            if error.errno not in CANNOT_LINK:
                raise
            link(target / name, fresh / name)


def names_of(target: Path, inside: Path, descriptor: int) -> int:
    """How many names a file in a folder has, but for those that :func:`keep` has given it.

    Args:
        target: the folder.
        inside: the file's path in it.
        descriptor: the open file.
    """
    target = real(target)
    while True:
        status = os.fstat(descriptor)
        kept = 0
        for kind in ("new", "old"):
            with suppress(FileNotFoundError, NotADirectoryError):
                kept += os.path.samestat(status, os.lstat(beside(target, kind) / inside))
        # The others may have been at work in between.
        if status.st_nlink == os.fstat(descriptor).st_nlink:
            return status.st_nlink - kept


def write(path: Path, data: bytes, *, mode: int = 0o666, new: bool = False) -> None:
    """Writes a whole file, in place of an old one; its folder is made.

    A link is followed. What is no file, such as a pipe, is written to as it is.

    Args:
        path: the file.
        data: its bytes.
        mode: the permissions of a file that was not there, less the umask.
        new: do not replace a file.

    Raises:
        FileExistsError: there is something, and it was to be new.
        FileSystemError: the system refused; the file is what it was.
    """
    try:
        if path.exists() and not path.is_file() and not new:
            path.write_bytes(data)
            return
        path = real(path)
        with _locked_file(path):
            if new:
                require_none(path)
            replace(path, data, mode=mode, new=new)
    except FileExistsError:
        raise
    except OSError as error:
        raise system_errors.of_files(
            error, f"{path} is not written", path.parent, len(data)
        ) from error


def clear(path: Path) -> None:
    """Removes what a killed process left beside a file.

    Raises:
        FileSystemError: the system refused.
    """
    try:
        with _locked_file(real(path)):
            pass
    except OSError as error:
        raise system_errors.of_files(error, f"{path} is not written", path.parent) from error


def require_none(path: Path) -> None:
    """Refuses a name that something has.

    Raises:
        FileExistsError: something has it, a link that leads nowhere included.
    """
    if os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))


@contextmanager
def scratch(target: Path) -> Iterator[Path]:
    """A folder beside a file that is to be made, under the lock; it is removed at the end.

    Raises:
        OSError: as for :func:`locked`.
    """
    with _locked_file(target) as fresh:
        fresh.mkdir()
        yield fresh


def recover(target: Path, whole: Callable[[Path], bool] = holds_something) -> None:
    """Puts back an old folder that nothing has replaced, and removes what lies beside it.

    Of the two renames that replace a folder, the second takes the new one's name away. So an old
    one is removed only where there is no new one, and where a whole one is in its place.

    Raises:
        FileSystemError: something else is in its place. Nothing was touched.
    """
    fresh, old = beside(target, "new"), beside(target, "old")
    if os.path.lexists(old):
        if not os.path.lexists(target) or _is_empty(target):
            old.rename(target)
            flush_entry(target)
        elif os.path.lexists(fresh) or not whole(target):
            raise FileSystemError(
                f"{target}: stands where {old} belongs, which a killed process put "
                f"aside. Move {target} away to restore it, or move {old} away if it is not needed."
            )
    for left in (fresh, old):
        _remove(left)


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
    """By two renames if need be; if it ends between them, `recover` takes the first one back.

    Raises:
        FileSystemError: the folder is one of an image, which an overlay cannot rename.
        OSError: the system refused.
    """
    try:
        if not exchange(fresh, target):
            target.rename(beside(target, "old"))
            fresh.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:  # the new one is beside it, so it is no other file system
            raise
        path = shlex.quote(str(target))
        raise FileSystemError(
            f"{target}: belongs to a lower layer of an overlay, such as a container's image, where "
            "no folder can be renamed. Give another place, or make it the container's own: "
            f"cp -a {path} {path}.copy && rm -r {path} && mv {path}.copy {path}"
        ) from error


def _remove(left: Path) -> None:
    if os.path.lexists(left):
        delete(left)


def _is_empty(folder: Path) -> bool:
    """Whether it is a folder, and no link to one, with nothing in it."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    with os.scandir(folder) as entries:
        return next(entries, None) is None


def _is_within(target: Path) -> bool:
    """Whether this process, so probably the shell that started it, is in the folder."""
    try:
        return Path.cwd().is_relative_to(target)
    except FileNotFoundError:  # it is in a folder that was removed
        return False


def _keep_owner(old: Path, fresh: Path) -> None:
    """Gives folders the owner of another, where this user may do that: root, for somebody else."""
    status, mine = old.stat(), fresh.stat()
    if (status.st_uid, status.st_gid) == (mine.st_uid, mine.st_gid):
        return
    with suppress(PermissionError):
        for folder in (fresh, *(path for path in walking.below(fresh) if path.is_dir())):
            os.chown(folder, status.st_uid, status.st_gid)
