"""Locks of the kernel on files (flock(2)); whoever waits for one says for whom.

A lock ends with the process that holds it, however that ends. On NFS it ends with the client's
lease, so what a dead machine held is free after that. Nothing here breaks a lock by its age, or
because a process of that number is gone: neither says anything about another machine.

A lock file says who holds it. That is for people and decides nothing. It is removed by its holder
at the end; whoever opened it before then sees that it has lost its name, and begins again.
"""

import datetime
import errno
import fcntl
import os
import platform
import stat
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path

from forge.core import console, filesystem, mounts
from forge.core.mounts import Mount

PAUSE = 0.1  # seconds between two attempts, and before the first line: most locks are soon free
AGAIN = 10.0  # seconds between two lines
_MOST = 200  # bytes read of a lock file
# A disk that takes no more, on which what frees it needs locks as well.
_UNSIGNED = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS})
_BEGINNING = b"process "  # of what a lock file says
# A link is not followed, and the other end of a pipe is not waited for.
_AS_IT_IS = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
# What the system says of a folder that is opened for writing, a socket or a device.
_NOT_REGULAR = filesystem.NO_FILE | {errno.EISDIR}
# With these, a name is not that of a file which is open: it is gone, or that of something else.
_OTHERS = _NOT_REGULAR | {errno.ENOENT, errno.ELOOP}
# Where flock is the machine's own, by type of file system: the options that make it so; none for a
# type that knows nothing else.
_LOCAL: Mapping[str, frozenset[str]] = {
    **dict.fromkeys(
        ("nfs", "nfs4"), frozenset({"nolock", "local_lock=flock", "local_lock=all"})
    ),
    **dict.fromkeys(("cifs", "smb3"), frozenset({"nobrl"})),
    "lustre": frozenset({"localflock"}),
    "fuse.sshfs": frozenset(),
}  # fmt: skip


class NoLockFileError(OSError):
    """Something else is in the place of a lock file; it is left as it is."""


class Lock:
    """A lock that this process has alone."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path, self._descriptor = path, descriptor

    def release(self) -> None:
        """Lets the next one have it."""
        # While it is held, so that nobody has another file of this name yet. Where it cannot be
        # removed, it stays, and locks nothing once it is closed.
        with suppress(OSError):
            self._path.unlink()
        os.close(self._descriptor)


class Shared:
    """A lock that this process has in common with others, for as long as this object is there."""

    def __init__(self, path: Path, *, touch: bool = True) -> None:
        """Waits for nobody but one that has the lock alone.

        Args:
            path: the lock file, which is made.
            touch: note the use in its time.

        Raises:
            NoLockFileError: there is a link, or something that is not a regular file.
            OSError: the file cannot be opened or locked; the folder that it lies in is not there.
        """
        descriptor = _open_shared(path)
        weakref.finalize(self, os.close, descriptor)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        if touch:
            # In a container, what was fetched cannot be written, and the build that started it has
            # done this.
            with suppress(OSError):
                os.utime(descriptor)
        self.descriptor = descriptor


@contextmanager
def held(path: Path, what: str) -> Iterator[None]:
    """Keeps others from what a lock file stands for; waits for them, and says so.

    Args:
        path: the lock file, which is made; its folder is there.
        what: what is waited for, which begins the line.

    Raises:
        OSError: the file cannot be opened or locked.
    """
    lock = take(path, what)
    try:
        yield
    finally:
        lock.release()


def take(path: Path, what: str) -> Lock:
    """As :func:`held`, until it is released."""
    began, due = time.monotonic(), PAUSE
    while (lock := attempt(path)) is None:
        waited = time.monotonic() - began
        if waited >= due:
            so_far = f", {waited:.0f} s so far" if due > PAUSE else ""
            console.say(f"{what}: waiting for {_holder(path)}{so_far}")
            due = waited + AGAIN
        time.sleep(PAUSE)
    return lock


def attempt(path: Path) -> Lock | None:
    """The lock of a file, or None if somebody has it.

    A file that another user left, and that only he may write, is locked as it is and goes on
    naming him. One that the disk does not give is written over: by its name it is a lock file.

    Raises:
        NoLockFileError: what is there is no lock file. It is what it was.
        OSError: the file cannot be opened or locked.
    """
    while True:
        descriptor, writable = _open(path)
        kept = False
        try:
            if not _exclusive(path, descriptor, writable=writable):
                return None
            if names(path, descriptor):
                if not _is_a_lock(_read(descriptor)):
                    raise _is_no_lock(path, "holds something else")
                if writable:
                    _sign(descriptor)
                kept = True
                return Lock(path, descriptor)
        finally:
            if not kept:
                os.close(descriptor)


def exclusive(descriptor: int) -> bool:
    """Locks an open file, unless somebody has its lock; then False.

    Raises:
        OSError: the file system has no locks, or none left.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def names(path: Path, descriptor: int) -> bool:
    """Whether an open file is still the one of this name.

    It is opened, and not looked at: over NFS that asks the server, not what is remembered here.
    """
    try:
        again = os.open(path, os.O_RDONLY | _AS_IT_IS)
    except OSError as error:
        if error.errno not in _OTHERS:
            raise
        return False
    try:
        return os.path.samestat(os.fstat(again), os.fstat(descriptor))
    finally:
        os.close(again)


def is_held(path: Path) -> bool:
    """Whether somebody has the lock of a file, alone or in common; False if there is none."""
    try:
        with alone(path) as free:
            return not free
    except PermissionError:
        return True  # it is another user's, who removes it


def is_foreign(path: Path) -> bool:
    """Whether what is in the place of a lock file is none, so that :func:`attempt` refuses it."""
    try:
        descriptor = _open_regular(path, os.O_RDONLY)
    except NoLockFileError:
        return True
    except OSError:
        return False  # it is gone, or another user's
    try:
        return not _is_a_lock(_read(descriptor))
    finally:
        os.close(descriptor)


@contextmanager
def alone(path: Path) -> Iterator[bool]:
    """Keeps others from the lock of a file that is there; False if somebody has it.

    Nobody has that of what is no regular file, nor of none.

    Raises:
        OSError: the file cannot be opened or locked.
    """
    with ExitStack() as stack:
        free = True
        with suppress(FileNotFoundError, NotADirectoryError, NoLockFileError):
            descriptor = _open_regular(path, os.O_RDWR)
            stack.callback(os.close, descriptor)
            free = exclusive(descriptor)
        yield free


def tell_if_local(path: Path) -> None:
    """Says so, once, if other machines do not see the locks that are taken at `path`."""
    path = filesystem.real(path)
    if (why := local(path, mounts.mounted())) is None:
        return
    _say_once(
        f"{path}: lies on {why}, where locks are seen by this machine alone. Let no other machine "
        "use it at the same time, or mount it with locks that the server keeps."
    )


def local(path: Path, mounted: Iterable[Mount]) -> str | None:
    """The file system of `path` and the option by which its locks are this machine's own.

    Args:
        path: an absolute path without links.
        mounted: what is mounted; of two at one point, the later one lies above.

    Returns:
        None, if all machines see them, or nobody else can see the file system.
    """
    found: Mount | None = None
    for one in mounted:
        if path.is_relative_to(one.point) and (
            found is None or one.point.is_relative_to(found.point)
        ):
            found = one
    if found is None or found.kind not in _LOCAL:
        return None
    if not _LOCAL[found.kind]:
        return f"{found.kind} at {found.point}"
    because = sorted(found.options & _LOCAL[found.kind])
    return f"{found.kind} at {found.point} with the option {because[0]!r}" if because else None


@cache
def _say_once(text: str) -> None:
    console.say(text)


def _open(path: Path) -> tuple[int, bool]:
    """Opens a lock file, which is made if it is not there; and whether it can be written."""
    try:
        return _open_regular(path, os.O_RDWR | os.O_CREAT), True
    except PermissionError:
        if not os.path.lexists(path):
            raise
        try:
            return _open_regular(path, os.O_RDONLY), False
        except PermissionError as error:
            raise _is_of_another(path) from error


def _exclusive(path: Path, descriptor: int, *, writable: bool) -> bool:
    try:
        return exclusive(descriptor)
    except OSError as error:
        # NFS locks for one alone only what can be written.
        if error.errno == errno.EBADF and not writable:
            raise _is_of_another(path) from error
        raise


def _read(descriptor: int) -> bytes:
    """What a lock file says; nothing, where the disk does not give it."""
    try:
        return os.pread(descriptor, _MOST, 0)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return b""


def _is_a_lock(data: bytes) -> bool:
    """Whether a file says what lock files say, or nothing; zeros are what a power cut leaves."""
    text = data.lstrip(b"\0")
    return text.startswith(_BEGINNING) or _BEGINNING.startswith(text)


def _is_no_lock(path: Path, why: str) -> NoLockFileError:
    return NoLockFileError(
        errno.EEXIST, f"{why}, so it is no lock file and is left as it is. Move it away", str(path)
    )


def _is_of_another(path: Path) -> PermissionError:
    return PermissionError(
        errno.EACCES,
        "is the lock file of another user, and cannot be locked. Remove it, or let its owner do "
        "that, when nobody is at work here",
        str(path),
    )


def _open_shared(path: Path) -> int:
    """Opens for reading what may lie where nothing can be written; makes it if it is not there."""
    try:
        return _open_regular(path, os.O_RDONLY)
    except FileNotFoundError:
        return _open_regular(path, os.O_RDONLY | os.O_CREAT)


def _open_regular(path: Path, flags: int) -> int:
    """Opens a regular file, and nothing else.

    Raises:
        NoLockFileError: it is a link or no regular file.
        OSError: the system does not open it.
    """
    try:
        descriptor = os.open(path, flags | _AS_IT_IS, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP and path.is_symlink():
            raise _is_no_lock(path, "is a link") from error
        if error.errno in _NOT_REGULAR:
            raise _is_no_lock(path, "is no regular file") from error
        raise
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise _is_no_lock(path, "is no regular file")


def _sign(descriptor: int) -> None:
    """Writes down who has the lock, unless the disk takes nothing: the lock holds without it."""
    now = datetime.datetime.now(datetime.UTC)
    text = f"{os.getpid()} on {platform.node()}, which has it since {now:%F %T} UTC"
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, (_BEGINNING + text.encode())[:_MOST], 0)
    except OSError as error:
        if error.errno not in _UNSIGNED:
            raise


def _holder(path: Path) -> str:
    """Who has the lock, as its file says."""
    try:
        with path.open("rb", buffering=0) as file:
            text = _read(file.fileno()).decode(errors="replace")
    except FileNotFoundError:
        text = ""  # it was released just now
    return "".join(one for one in text if one.isprintable()) or "another process"
