"""Streams bytes from base files to shards: read once, worked on in parallel, written once.

One thread reads and one hashes what was read. Two pack. One writes and two hash what is written:
each file, and each tensor whose digest is not known. sha256, numba's loops and file access all
release the interpreter lock. What waits between reader and writer is bounded.
"""

import io
import os
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt

from forge.core.errors import QuantizeError
from forge.manifest.tensor_list import TensorLine
from forge.tensors import tensorfile
from forge.tensors.buffers import Memory, Pool
from forge.tensors.pagecache import ReadBehind, WriteBehind
from forge.tensors.tensor_list import NewHash, Passing
from forge.tensors.tensorfile import Spec, Tensor

T = TypeVar("T")
Bytes = bytes | memoryview | npt.NDArray[Any]
CHUNK = 16 << 20  # what is read, packed or copied, and written as one
_SMALL = 1 << 20  # what is hashed where it is written, as handing it on would gain little
# Bytes that may be in memory between reader and writer. A group of linears that is larger than
# this still passes, alone.
IN_FLIGHT = 448 << 20


class Reader:
    """Reads one base file from front to back, once, and checks its digest at the end."""

    def __init__(
        self,
        path: Path,
        digests: Mapping[str, str],
        progress: Callable[[int], None],
        new_hash: NewHash = sha256,
    ) -> None:
        self._path = path
        self._expected = digests[path.name]
        self._progress = progress
        self._hash = new_hash()
        self._file = path.open("rb", buffering=0)
        self._position = 0  # up to which reading has been asked for
        self._behind = ReadBehind(self._file.fileno())
        self._last: Future[None] | None = None
        self._reading = ThreadPoolExecutor(1, "read")
        self._hashing = ThreadPoolExecutor(1, "hash")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._file:
            for threads in (self._reading, self._hashing):
                threads.shutdown(cancel_futures=kind is not None)
            if kind is None and self._last is not None:
                self._last.result()
            if kind is None and self._hash.hexdigest() != self._expected:
                raise QuantizeError(
                    f"{self._path}: has digest {self._hash.hexdigest()}, fetched was "
                    f"{self._expected}; the file changed since. Nothing was built; run again."
                )

    def read(self, tensor: Tensor, into: memoryview, start: int = 0) -> Future[None]:
        """Fills `into` with the bytes of a tensor from `start` on, after whatever lies before.

        Returns:
            What is done when the bytes have been read and hashed.
        """
        self._skip(tensor.offset + start - self._position)
        return self._fill(into)

    def skip(self, tensor: Tensor) -> None:
        """Reads a tensor for the file's digest alone."""
        self._skip(tensor.offset + tensor.nbytes - self._position)

    def _skip(self, count: int) -> None:
        scratch = memoryview(bytearray(min(CHUNK, count)))
        for start in range(0, count, CHUNK):
            self._fill(scratch[: count - start]).result()

    def _fill(self, memory: memoryview) -> Future[None]:
        start, self._position = self._position, self._position + len(memory)
        reading = self._reading.submit(self._read, memory, start)
        self._last = self._hashing.submit(self._digest, memory, reading, self._last)
        return self._last

    def _read(self, memory: memoryview, start: int) -> int:
        filled = 0
        while filled < len(memory):
            got = os.preadv(self._file.fileno(), [memory[filled:]], start + filled)
            if not got:
                raise QuantizeError(f"{self._path}: ends early; it changed since it was fetched.")
            filled += got
        self._behind.passed(start + filled)
        return filled

    def _digest(
        self, memory: memoryview, reading: Future[int], before: Future[None] | None
    ) -> None:
        if before is not None:
            before.result()  # whose error is this one's, too
        self._progress(reading.result())
        self._hash.update(memory)


@dataclass(frozen=True, kw_only=True)
class Written:
    """Shards that were written: the digest of each by file name, and what passed into them."""

    files: dict[str, str]
    passed: Sequence[Passing]

    @property
    def tensors(self) -> list[TensorLine]:
        """Their tensors, with the digest of each."""
        return [line for passing in self.passed for line in passing.lines()]


class Conveyor:
    """Packs on two threads and writes on one, in the order in which it was given the work."""

    def __init__(
        self,
        shards: Mapping[str, list[Spec]],
        out: Path,
        known: Mapping[str, str],
        new_hash: NewHash = sha256,
    ) -> None:
        self._packers = ThreadPoolExecutor(2, "pack")
        self._writer = ThreadPoolExecutor(1, "write")
        self._shards = _ShardWriter(shards, out, known, new_hash)
        self._writes: deque[Future[None]] = deque()
        self._pool = Pool(CHUNK, IN_FLIGHT)
        self.lend = self._pool.lend

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._packers.shutdown(cancel_futures=True)
        self._writer.shutdown(cancel_futures=True)
        self._shards.close()

    def soon(self, work: Callable[[], T]) -> "Future[T]":
        """Runs `work` when all that was given before has begun."""
        return self._packers.submit(work)

    def write(self, parts: Callable[[], Iterable[Bytes]], lent: Memory | None = None) -> None:
        """Writes what `parts` gives next, and takes back the lent memory that it lies in."""
        if lent is not None:
            self._pool.expect(lent)
        self._writes.append(self._writer.submit(self._write, parts, lent))
        while self._writes and self._writes[0].done():
            self._writes.popleft().result()

    def _write(self, parts: Callable[[], Iterable[Bytes]], lent: Memory | None) -> None:
        try:
            for part in parts():
                self._shards.write(part)
        finally:  # the reader may be waiting for room, and must hear of the error
            if lent is not None:
                self._pool.give_back(lent)

    def finish(self) -> "Written":
        """Waits for all writes; returns what was written."""
        while self._writes:
            self._writes.popleft().result()
        return Written(files=self._shards.digests, passed=self._shards.passed)


class _ShardWriter:
    """Writes the shards one after the other from a stream of tensor bytes, hashing on the way."""

    def __init__(
        self,
        shards: Mapping[str, list[Spec]],
        out: Path,
        known: Mapping[str, str],
        new_hash: NewHash,
    ) -> None:
        self.digests: dict[str, str] = {}
        self.passed: list[Passing] = []
        self._pending = deque(shards.items())
        self._out = out
        self._known = known
        self._new_hash = new_hash
        self._file: io.FileIO | None = None
        self._hashing = ThreadPoolExecutor(2, "digest")

    def write(self, data: Bytes) -> None:
        """Appends bytes of the tensor that is due; no call crosses the end of a tensor."""
        file = self._file or self._begin()
        self._put(file, data)
        if file.tell() == self._size:
            self._behind.finish()
            self.digests[self._name] = self._hash.hexdigest()
            self.passed.append(self._passing)
            file.close()
            self._file = None

    def close(self) -> None:
        """Closes the shard that is open, if any, and stops the thread."""
        self._hashing.shutdown()
        if self._file is not None:
            self._file.close()

    def _begin(self) -> io.FileIO:
        self._name, specs = self._pending.popleft()
        header = tensorfile.header_bytes(specs)
        self._size = len(header) + sum(spec.nbytes for spec in specs)
        self._hash = self._new_hash()
        self._passing = Passing(self._name, len(header), specs, self._known, self._new_hash)
        self._file = file = io.FileIO(self._out / self._name, "x")
        self._behind = WriteBehind(file.fileno())
        self._put(file, header)
        return file

    def _put(self, file: io.FileIO, data: Bytes) -> None:
        """Writes the data while other threads hash it."""
        view = np.frombuffer(data, dtype=np.uint8).data
        hashes = (self._hash.update, self._passing.update)
        if len(view) <= _SMALL:
            for update in hashes:
                update(view)
            self._write(file, view)
        else:
            hashing = [self._hashing.submit(update, view) for update in hashes]
            self._write(file, view)
            for one in hashing:
                one.result()

    def _write(self, file: io.FileIO, view: memoryview) -> None:
        while view:
            view = view[file.write(view) :]
            self._behind.passed(file.tell())
