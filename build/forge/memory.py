"""Memory that is used again: fresh pages from the system cost more time than reading the bytes.

What is lent for reading waits for room, so that what lies between reader and writer is bounded.
What is allocated for results does not wait, or nothing would ever come back: results are smaller
than what they are made from.
"""

import mmap
import threading
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

Memory = npt.NDArray[np.uint8]
_SMALLEST = 1 << 16


class Pool:
    """Lends memory within a limit; what comes back is lent again where it fits."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._room = threading.Condition()
        self._lent = 0
        self._returning = 0  # lent bytes whose work is under way, so that they will come back
        self._free: list[Memory] = []

    def lend(self, count: int) -> Memory:
        """Memory of at least `count` bytes, as soon as there is room.

        When nothing is going to come back, what is needed passes the limit.
        """
        with self._room:
            self._room.wait_for(lambda: not self._returning or self._lent + count <= self._limit)
            memory = self._take(count)
            self._lent += memory.nbytes
            return memory

    def allocate(self, count: int) -> Memory:
        """A view of `count` bytes, at once, for results."""
        with self._room:
            return self._take(count)[:count]

    def expect(self, lent: Iterable[Memory]) -> None:
        """Lent memory has been handed to work that will give it back."""
        with self._room:
            self._returning += sum(memory.nbytes for memory in lent)

    def give_back(self, lent: Iterable[Memory], results: Iterable[Memory] = ()) -> None:
        """Takes back lent memory that was expected, and what results are views of."""
        with self._room:
            for memory in lent:
                self._returning -= memory.nbytes
                self._lent -= memory.nbytes
                self._free.append(memory)
            self._free += [view.base for view in results if isinstance(view.base, np.ndarray)]
            self._room.notify()

    def _take(self, count: int) -> Memory:
        self._free.sort(key=len)
        for place, free in enumerate(self._free):
            if count <= free.nbytes <= max(2 * count, _SMALLEST):
                return self._free.pop(place)
        while self._free and self._lent + count + sum(map(len, self._free)) > self._limit:
            self._free.pop()
        return _map(max(count, _SMALLEST))


def _map(count: int) -> Memory:
    """Memory straight from the system, in huge pages where it has them.

    The C library would keep pieces of what is freed, and with them more than the limit.
    """
    pages = mmap.mmap(-1, count)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        pages.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(pages, dtype=np.uint8)
