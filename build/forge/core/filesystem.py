"""Operations on files that survive a crash, or that a file system may lack.

A name that a rename gives lasts once the bytes below it and the folder that it is in are flushed.
"""

import errno
import os
import shutil
import stat
from io import BufferedReader, FileIO
from pathlib import Path
from typing import BinaryIO

from forge.core import console, mounts, system_errors, walking
from forge.core.boundary import naming

# Two file systems; one that knows no links, or lets nobody link the files of others; a file with
# as many names as it can have. sshfs says ENOSYS.
CANNOT_LINK = frozenset(
    {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
)
# What the system says of a device or a pipe that cannot be opened, and `opened` of any other.
NO_FILE = frozenset({errno.ENXIO, errno.ENODEV})
_CHUNK = 1 << 22


def opened(path: Path) -> FileIO:
    """Opens a regular file for reading; refuses anything else, such as a pipe without a writer.

    Raises:
        OSError: the system refused, or, with an errno of `NO_FILE`, it is no regular file.
    """
    file = open(path, "rb", buffering=0, opener=_at_once)  # noqa: SIM115 - whoever calls closes it
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    raise OSError(errno.ENXIO, "is no regular file", str(path))


def read(path: Path, most: int) -> bytes:
    """The bytes of a file, as :func:`opened`.

    Raises:
        OSError: there are more than `most` of them, or the system refused.
    """
    with BufferedReader(opened(path)) as file:
        return _bounded(file, path, most)


def read_some(path: Path, most: int) -> bytes:
    """The bytes of a file, or of a pipe that whoever runs the command has given it.

    Raises:
        OSError: there are more than `most` of them, or the system refused.
    """
    with path.open("rb") as file:
        return _bounded(file, path, most)


def is_there(path: Path) -> bool:
    """Whether something lies at a path, a link to nowhere included.

    Unlike for `os.path.lexists`, what the system does not tell of may be there.
    """
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def real(path: Path) -> Path:
    """The absolute path without links; its last parts need not be there.

    Raises:
        OSError: links lead back to themselves.
    """
    try:
        return path.resolve()
    except RuntimeError as error:
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path)) from error


def flush(folder: Path) -> None:
    """Puts files and folders on the disk before a rename says that they are there."""
    for path in (*walking.below(folder), folder):
        if (path.is_file() or path.is_dir()) and not path.is_symlink():
            _fsync(path)


def flush_entry(path: Path) -> None:
    """Puts on the disk that `path` is in its folder."""
    _fsync(path.parent)


def beside(path: Path, kind: str) -> Path:
    """A name of Hallmark's own beside a folder or file."""
    return path.with_name(f".{path.name}.hallmark-{kind}")


def replace(path: Path, data: bytes, *, mode: int = 0o666, new: bool = False) -> None:
    """Writes a whole file: whoever reads it meanwhile has the old one or the new one.

    It is written beside its place and renamed, and keeps the permissions of an old one. For files
    that one process writes at a time; :func:`forge.core.placing.write` is for others.

    Args:
        path: the file; its folder is there.
        data: its bytes.
        mode: the permissions of a file that was not there, less the umask.
        new: do not replace a file.

    Raises:
        FileExistsError: there is something, and it was to be new.
        OSError: the system refused; the file is what it was.
    """
    fresh = beside(path, "new")
    fresh.unlink(missing_ok=True)
    fresh.touch(mode, exist_ok=False)
    with naming(fresh), fresh.open("wb") as file:
        if path.exists():
            os.fchmod(file.fileno(), stat.S_IMODE(path.stat().st_mode))
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    if new and _linked(fresh, path):
        fresh.unlink()
    else:
        fresh.replace(path)
    flush_entry(path)


def delete(path: Path) -> bool:
    """Removes a file or a folder; what the system does not let go stays, and is named.

    Returns:
        Whether it is gone.
    """
    try:
        if path.is_dir() and not path.is_symlink():
            remove_tree(path)
        else:
            path.unlink()
    except FileNotFoundError:
        return True  # somebody else removed it
    except OSError as error:
        console.say(f"{path}: cannot be removed: {system_errors.told(error)}")
        return False
    return True


def remove_tree(folder: Path) -> None:
    """Removes a folder with all in it, unless something is mounted there: that is of others.

    Raises:
        OSError: it is or holds a mount point, and nothing was touched; or the system refused.
    """
    mounts.require_none(real(folder))
    shutil.rmtree(folder)


def link(source: Path, target: Path) -> None:
    """Gives the bytes of `source` a second name, or copies them where they can have none.

    Raises:
        FileExistsError: there is a file at `target`; neither it nor `source` was touched.
        OSError: the disk refused for another reason than `CANNOT_LINK`; `target` is not there.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    source = source.resolve()
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in CANNOT_LINK:
            raise
        _copy(source, target)


def _linked(fresh: Path, path: Path) -> bool:
    """Whether a file could be given another name, which replaces nothing."""
    try:
        os.link(fresh, path)
    except OSError as error:
        if error.errno in CANNOT_LINK:
            return False
        raise
    return True


def _copy(source: Path, target: Path) -> None:
    """Copies into a new file: an existing one may share its bytes with a result of the store."""
    with naming(target), source.open("rb") as data, target.open("xb") as copy:
        try:
            shutil.copyfileobj(data, copy, _CHUNK)
            copy.flush()
        except BaseException:
            target.unlink()
            raise
    shutil.copystat(source, target)


def _at_once(name: str, flags: int) -> int:
    return os.open(name, flags | os.O_NONBLOCK)


def _bounded(file: BinaryIO, path: Path, most: int) -> bytes:
    with naming(path):
        data = file.read(most + 1)
    if len(data) > most:
        raise OSError(errno.EFBIG, f"has more than {most} bytes", str(path))
    return data


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with naming(path):
            os.fsync(descriptor)
    except OSError as error:
        # There are file systems, over a network most of them, that do this for files alone.
        if error.errno not in {errno.EINVAL, errno.ENOTSUP} or not path.is_dir():
            raise
    finally:
        os.close(descriptor)
