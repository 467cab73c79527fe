"""Free space on a disk, checked before something large is written.

It is the space that this user may write. Quotas, limits on the number of files and what others
write meanwhile do not show in it. A disk that fills up later is reported then.
"""

import os
import shutil
from pathlib import Path

from forge.core.errors import SpaceError
from forge.core.sizes import size


def require(folder: Path, needed: int, what: str) -> None:
    """Refuses to begin what does not fit.

    Args:
        folder: where it is written; it need not be there yet.
        needed: the bytes that are written there.
        what: what takes them, for the message.

    Raises:
        SpaceError: fewer bytes are free there; it says both numbers.
        OSError: the system does not say how many are.
    """
    there = existing(folder)
    available = free(there)
    if available < needed:
        raise SpaceError(
            f"{what} takes {size(needed, 3)}, and {size(available, 3)} are free at {there}. "
            "Nothing was written. Free the disk, or use a larger one."
        )


def free(folder: Path) -> int:
    """The bytes that this user may still write to the file system of a folder."""
    return shutil.disk_usage(folder).free


def takes_files(folder: Path) -> bool:
    """Whether another file can be made on the file system of a folder, however small.

    Some have no fixed number of them, and say that there are none at all.
    """
    found = os.statvfs(folder)
    return found.f_files == 0 or found.f_favail > 0


def existing(path: Path) -> Path:
    """The path itself, or the nearest folder above it that is there."""
    path = path.absolute()
    return next(one for one in (path, *path.parents) if one.exists())
