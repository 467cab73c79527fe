"""Bytes on their way from base files to shards: read once, worked on in parallel, written once.

One thread reads and hashes, two pack, one hashes and writes; sha256, numba's kernels and file
access all release the interpreter lock. What lies between reader and writer is bounded.
"""

import hashlib
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Self

import numpy as np

from forge import tensorfile
from forge.errors import QuantizeError
from forge.tensorfile import Spec, Tensor

Bytes = bytes | memoryview
CHUNK = 16 << 20
# Bytes that may be in memory between reader and writer. A group of linears that is larger than
# this still passes, alone.
IN_FLIGHT = 512 << 20


class Reader:
    """Reads one base file from front to back, once, and checks its digest at the end."""

    def __init__(
        self, path: Path, digests: Mapping[str, str], progress: Callable[[int], None]
    ) -> None:
        self._path = path
        self._expected = digests[path.name]
        self._progress = progress
        self._hash = hashlib.sha256()
        self._file = path.open("rb", buffering=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._file:
            if kind is None and self._hash.hexdigest() != self._expected:
                raise QuantizeError(
                    f"{self._path}: has sha256 {self._hash.hexdigest()}, fetched was "
                    f"{self._expected}; the file changed since. Nothing was built; run again."
                )

    def read(self, tensor: Tensor, into: memoryview, start: int = 0) -> None:
        """Fills `into` with the bytes of a tensor from `start` on, after whatever lies before."""
        self._skip(tensor.offset + start - self._file.tell())
        for piece in range(0, len(into), CHUNK):
            self._fill(into[piece : piece + CHUNK])

    def skip(self, tensor: Tensor) -> None:
        """Reads a tensor for the file's digest alone."""
        self._skip(tensor.offset + tensor.nbytes - self._file.tell())

    def _skip(self, count: int) -> None:
        for start in range(0, count, CHUNK):
            self._fill(memoryview(bytearray(min(CHUNK, count - start))))

    def _fill(self, piece: memoryview) -> None:
        filled = 0
        while filled < len(piece):
            got = self._file.readinto(piece[filled:])
            if not got:
                raise QuantizeError(f"{self._path}: ends early; it changed since it was fetched.")
            filled += got
        self._hash.update(piece)
        self._progress(len(piece))


class Conveyor:
    """Packs on two threads and writes on one, in the order in which it was given the work.

    It lends the memory that the bytes travel in and uses it again: fresh pages from the system
    cost more time than reading the bytes does.
    """

    def __init__(self, shards: Mapping[str, list[Spec]], out: Path) -> None:
        self._packers = ThreadPoolExecutor(2, "pack")
        self._writer = ThreadPoolExecutor(1, "write")
        self._shards = _ShardWriter(shards, out)
        self._writes: deque[Future[None]] = deque()
        self._room = threading.Condition()
        self._unfinished = 0  # works and copies on their way to the disk
        self._lent = 0
        self._free: list[memoryview] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._packers.shutdown(cancel_futures=True)
        self._writer.shutdown(cancel_futures=True)
        self._shards.close()

    def lend(self, count: int) -> memoryview:
        """Memory of `count` bytes, as soon as there is room; copy() or pack() takes it back."""
        with self._room:
            # With nothing on its way nothing can be given back: what is needed passes the limit.
            self._room.wait_for(lambda: not self._unfinished or self._lent + count <= IN_FLIGHT)
            fitting = [free for free in self._free if count <= len(free) <= 2 * count]
            if fitting:
                memory = min(fitting, key=len)
                self._free.remove(memory)
            else:
                self._free.sort(key=len)
                while self._free and self._lent + count + sum(map(len, self._free)) > IN_FLIGHT:
                    self._free.pop()
                memory = np.empty(count, dtype=np.uint8).data
            self._lent += len(memory)
            return memory

    def copy(self, data: memoryview, memory: memoryview) -> None:
        """Writes `data` next, which lies in lent memory."""
        self._submit(lambda: self._shards.write(data), [memory])

    def pack(self, work: Callable[[], Sequence[Bytes]], memories: list[memoryview]) -> None:
        """Runs `work`, which reads lent memories, and writes its parts next."""
        packed = self._packers.submit(work)

        def write() -> None:
            for part in packed.result():
                self._shards.write(part)

        self._submit(write, memories)

    def finish(self) -> dict[str, str]:
        """Waits for all writes.

        Returns:
            The sha256 of each shard, by file name.
        """
        while self._writes:
            self._writes.popleft().result()
        return self._shards.digests

    def _submit(self, write: Callable[[], None], memories: list[memoryview]) -> None:
        def task() -> None:
            try:
                write()
            finally:
                with self._room:
                    self._unfinished -= 1
                    self._lent -= sum(map(len, memories))
                    self._free += memories
                    self._room.notify()

        with self._room:
            self._unfinished += 1
        self._writes.append(self._writer.submit(task))
        while self._writes and self._writes[0].done():
            self._writes.popleft().result()


class _ShardWriter:
    """Writes the shards one after the other from a stream of tensor bytes, hashing on the way."""

    def __init__(self, shards: Mapping[str, list[Spec]], out: Path) -> None:
        self.digests: dict[str, str] = {}
        self._pending = deque(shards.items())
        self._out = out
        self._file: IO[bytes] | None = None
        self._name = ""
        self._left = 0

    def write(self, data: Bytes) -> None:
        """Appends bytes of the tensor that is due; no call crosses the end of a tensor."""
        if self._file is None:
            self._name, specs = self._pending.popleft()
            self._left = sum(spec.nbytes for spec in specs)
            self._hash = hashlib.sha256()
            self._file = (self._out / self._name).open("xb")
            self._put(self._file, tensorfile.header_bytes(specs))
        self._put(self._file, data)
        self._left -= memoryview(data).nbytes
        if not self._left:
            self.digests[self._name] = self._hash.hexdigest()
            self.close()

    def close(self) -> None:
        """Closes the shard that is open, if any."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _put(self, file: IO[bytes], data: Bytes) -> None:
        file.write(data)
        self._hash.update(data)
