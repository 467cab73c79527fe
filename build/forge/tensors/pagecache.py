"""Hints to the system's page cache for large files that are read or written once, end to end.

Touching fresh pages costs more time than the bytes in them. The pages behind the work are given
back, so that a few are used again and again, and the rest of the machine's cache stays. On a system
without these hints nothing happens, and no byte depends on them.
"""

import os

_WINDOW = 16 << 20  # bytes between two hints
_UNDER_WAY = 4 * _WINDOW  # what is written and may not have reached the disk


class ReadBehind:
    """Gives back the pages of a file that was read from its front up to a position."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._kept = 0

    def passed(self, position: int) -> None:
        """Everything before `position` has been read."""
        if position - self._kept >= _WINDOW:
            forget(self._descriptor, self._kept, position)
            self._kept = position


class WriteBehind:
    """Sends the pages of a growing file to the disk, and gives them back once they are there."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._sent = 0

    def passed(self, position: int) -> None:
        """Everything before `position` has been written.

        What is forgotten while it is dirty begins its way to the disk, and stays until it is
        forgotten again; so each window has as much time as the next ones take.
        """
        if position - self._sent >= _WINDOW:
            forget(self._descriptor, max(0, position - _UNDER_WAY), position)
            self._sent = position

    def finish(self) -> None:
        """Returns when the file is on the disk.

        Raises:
            OSError: the disk did not take it.
        """
        os.fsync(self._descriptor)
        forget(self._descriptor, 0, 0)


def forget(descriptor: int, start: int, end: int) -> None:
    """Lets the system use the clean pages of a part of a file for something else.

    It begins to write the dirty ones to the disk. From 0 to 0 is the whole file.
    """
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, start, end - start, os.POSIX_FADV_DONTNEED)
