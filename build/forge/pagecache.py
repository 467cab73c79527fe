"""Large files that pass through once and leave the system's page cache as small as it was.

Pages that were never touched cost more time than the bytes they are for: a file that is written
or read from end to end takes fresh ones all the way. Given back behind the work, a few are used
again and again, and whatever else the machine keeps in its cache stays there. These are hints:
on a system without them nothing happens, and no byte depends on them.
"""

import os
from concurrent.futures import Future, ThreadPoolExecutor

PIECE = 1 << 20  # what is read or written and hashed at once, while it is in the core's own cache
_WINDOW = 16 << 20  # bytes between two hints


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
    """Brings the pages of a growing file to the disk and gives them back, on another thread."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._sent = 0
        self._thread = ThreadPoolExecutor(1, "flush")
        self._last: Future[None] | None = None

    def passed(self, position: int) -> None:
        """Everything before `position` has been written; waits if the disk is far behind."""
        if position - self._sent >= _WINDOW:
            self._send(position)

    def finish(self, position: int) -> None:
        """Returns when the file is on the disk, up to its end at `position`.

        Raises:
            OSError: the disk did not take it.
        """
        self._send(position)
        self._wait()

    def _send(self, position: int) -> None:
        self._wait()
        self._last = self._thread.submit(self._flush, self._sent, position)
        self._sent = position

    def _wait(self) -> None:
        if self._last is not None:
            self._last.result()

    def close(self) -> None:
        """Stops the thread, once what was sent is on the disk or has failed."""
        self._thread.shutdown()

    def _flush(self, start: int, end: int) -> None:
        os.fsync(self._descriptor)
        forget(self._descriptor, start, end)


def forget(descriptor: int, start: int, end: int) -> None:
    """Lets the system use the clean pages of a part of a file for something else."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, start, end - start, os.POSIX_FADV_DONTNEED)
