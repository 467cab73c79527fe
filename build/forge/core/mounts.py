"""Mount points, as the kernel lists them for this process: /proc/self/mountinfo, proc(5)."""

import errno
import os
import re
from dataclasses import dataclass
from pathlib import Path

_HERE = Path("/proc/self/mountinfo")
# A space, tab, newline or backslash in a path.
_ESCAPED = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, kw_only=True)
class Mount:
    """A file system at its mount point, or a part of one: a bind mount tells as any other.

    `options` are those of the mount and of the file system.
    """

    point: Path
    kind: str
    options: frozenset[str]


def mounted() -> list[Mount]:
    """All mounts in the order of the kernel: of two at one point, the later one lies above.

    Raises:
        OSError: the system does not tell.
    """
    return parsed(_HERE.read_bytes())


def parsed(lines: bytes) -> list[Mount]:
    """The mounts of a file such as /proc/self/mountinfo."""
    return [_parsed(line) for line in os.fsdecode(lines).split("\n") if line]


def require_none(path: Path) -> None:
    """Refuses a path that something is mounted at or below: to remove it removes what is mounted.

    Args:
        path: an absolute path without links, which need not be there.

    Raises:
        OSError: it names the first mount point, or the system does not tell.
    """
    for mount in mounted():
        if mount.point == path:
            raise OSError(
                errno.EBUSY,
                "is a mount point, so nothing can be put in its place. Use another place, or "
                "unmount it",
                str(path),
            )
        if mount.point.is_relative_to(path):
            raise OSError(
                errno.EBUSY,
                f"is a mount point in {path}, and what is mounted there would be removed with "
                "that. Unmount it",
                str(mount.point),
            )


def _parsed(line: str) -> Mount:
    of_mount, _, of_system = line.partition(" - ")
    fields, system = of_mount.split(" "), of_system.split(" ")
    point = _ESCAPED.sub(lambda code: chr(int(code[1], 8)), fields[4])
    options = frozenset({*fields[5].split(","), *system[2].split(",")})
    return Mount(point=Path(point), kind=system[0], options=options)
