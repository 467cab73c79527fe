"""Errors of the operating system in one line: which file, what was tried, and why it failed."""

import errno
import traceback
from pathlib import Path

from forge.core import disk
from forge.core.errors import FileSystemError
from forge.core.sizes import size

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
# What the system also says of a file that is open already, when Python no longer knows its name.
# A file system over a network asks for permission at each write, and forgets files.
_OF_OPEN_FILES = FULL | {
    errno.EIO, errno.EFBIG, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.EACCES, errno.EPERM,
    errno.ESTALE,
}  # fmt: skip


def concerns_files(error: OSError) -> bool:
    """Whether it is about a file, and not about a connection, a process or a library's own kind."""
    return error.errno is not None and (error.filename is not None or error.errno in _OF_OPEN_FILES)


def told(error: OSError, where: Path | None = None, needed: int | None = None) -> str:
    """One line: path, reason and operation; of a full disk also the room that there is.

    Args:
        error: what the system said.
        where: the folder that was written to, for errors that name no file.
        needed: the bytes that were to be written there, where that is known.
    """
    path, operation = _path(error), _operation(error)
    reason = error.strerror or str(error)
    line = f"{path}: {reason}" if path else f"{reason}, the system does not say of which file"
    if not path and where is not None:
        line = f"{reason}, on writing to {where}"
    if operation is not None:
        line += f" ({operation})"
    place = where or (None if path is None else Path(path))
    return line if error.errno not in FULL else f"{line}. {_room(place, needed)}"


def of_files(
    error: OSError, what: str, where: Path | None = None, needed: int | None = None
) -> FileSystemError:
    """The error as one of ours: `what` was being done. Path, operation and reason are its facts."""
    return FileSystemError(
        f"{what}: {told(error, where, needed)}",
        path=_path(error),
        operation=_operation(error),
        reason=error.strerror,
    )


def _path(error: OSError) -> str | None:
    if error.filename is None:
        return None
    named = (error.filename, error.filename2)
    return " -> ".join(str(Path(str(name))) for name in named if name is not None)


def _operation(error: OSError) -> str | None:
    """What was tried, if the call was one of pathlib's, whose functions have its name."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    if not frames or frames[-1].f_globals.get("__name__", "").partition(".")[0] != "pathlib":
        return None
    return frames[-1].f_code.co_name.strip("_")


def _room(place: Path | None, needed: int | None) -> str:
    """How much of the disk is free; a quota may leave less than that."""
    free = "The disk is full"
    if place is not None:
        there = disk.existing(place)
        if not disk.takes_files(there):
            return f"No more files can be made at {there}: the disk has as many as it can have."
        free += f": {size(disk.free(there), 3)} are free at {there}"
    return f"{free}." if needed is None else f"{free}, {size(needed, 3)} are needed."
