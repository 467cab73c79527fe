"""Memory that is used again: fresh pages from the system cost more time than reading the bytes."""

import mmap
import threading

import numpy as np
import numpy.typing as npt

Memory = npt.NDArray[np.uint8]


class Pool:
    """Lends blocks of memory within a limit; what comes back is lent again."""

    def __init__(self, block: int, limit: int) -> None:
        self._block = block
        self._limit = limit
        self._room = threading.Condition()
        self._lent = 0
        self._returning = 0  # lent bytes whose work is under way, so that they will come back
        self._free: list[Memory] = []

    def lend(self, count: int) -> Memory:
        """A block of at least `count` bytes, as soon as there is room.

        When nothing is going to come back, what is needed passes the limit.
        """
        size = max(count, self._block)
        with self._room:
            self._room.wait_for(lambda: not self._returning or self._lent + size <= self._limit)
            self._lent += size
            return self._free.pop() if size == self._block and self._free else _map(size)

    def expect(self, memory: Memory) -> None:
        """Lent memory has been handed to work that will give it back."""
        with self._room:
            self._returning += memory.nbytes

    def give_back(self, memory: Memory) -> None:
        """Takes back lent memory that was expected."""
        with self._room:
            self._returning -= memory.nbytes
            self._lent -= memory.nbytes
            kept = (1 + len(self._free)) * self._block
            if memory.nbytes == self._block and self._lent + kept <= self._limit:
                self._free.append(memory)
            self._room.notify()


def _map(count: int) -> Memory:
    """Memory straight from the system, in huge pages where it has them.

    The C library would keep pieces of what is freed, and with them more than the limit.
    """
    pages = mmap.mmap(-1, count)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        pages.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(pages, dtype=np.uint8)
