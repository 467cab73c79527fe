"""Bytes on their way from base files to shards: read once, worked on in parallel, written once.

One thread reads and hashes, two pack, one hashes and writes; sha256, numba's kernels and file
access all release the interpreter lock. What lies between reader and writer is bounded.
"""

import hashlib
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Self

from forge import tensorfile
from forge.errors import QuantizeError
from forge.tensorfile import Spec, Tensor

Buffer = bytes | memoryview
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
        self._file: IO[bytes] = path.open("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._file:
            if kind is None and self._hash.hexdigest() != self._expected:
                raise QuantizeError(
                    f"{self._path}: has sha256 {self._hash.hexdigest()}, fetched was "
                    f"{self._expected}; the file changed since. Nothing was built; run again."
                )

    def chunks(self, tensor: Tensor) -> Iterator[bytes]:
        """The bytes of a tensor in pieces, after whatever lies before it."""
        self._take(tensor.offset - self._file.tell())
        for start in range(0, tensor.nbytes, CHUNK):
            yield self._take(min(CHUNK, tensor.nbytes - start))

    def read(self, tensor: Tensor) -> bytes:
        """The bytes of a tensor at once."""
        return b"".join(self.chunks(tensor))

    def skip(self, tensor: Tensor) -> None:
        """Reads a tensor for the file's digest alone."""
        for _ in self.chunks(tensor):
            pass

    def _take(self, count: int) -> bytes:
        data = self._file.read(count)
        if len(data) != count:
            raise QuantizeError(f"{self._path}: ends early; it changed since it was fetched.")
        self._hash.update(data)
        self._progress(count)
        return data


class Conveyor:
    """Packs on two threads and writes on one, in the order in which it was given the work."""

    def __init__(self, shards: Mapping[str, list[Spec]], out: Path) -> None:
        self._packers = ThreadPoolExecutor(2, "pack")
        self._writer = ThreadPoolExecutor(1, "write")
        self._shards = _ShardWriter(shards, out)
        self._writes: deque[Future[None]] = deque()
        self._room = threading.Condition()
        self._held = 0  # read, waiting for the rest of their group
        self._moving = 0  # on their way to the disk

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._packers.shutdown(cancel_futures=True)
        self._writer.shutdown(cancel_futures=True)
        self._shards.close()

    def hold(self, count: int) -> None:
        """Waits until a tensor of `count` bytes has room, and books it for a later pack()."""
        with self._room:
            self._wait(count)
            self._held += count

    def copy(self, data: bytes) -> None:
        """Writes `data` next."""
        with self._room:
            self._wait(len(data))
            self._moving += len(data)
        self._submit(lambda: self._shards.write(data), len(data))

    def pack(self, work: Callable[[], list[Buffer]], count: int) -> None:
        """Runs `work` on `count` held bytes and writes its parts next."""
        with self._room:
            self._held -= count
            self._moving += count
        packed = self._packers.submit(work)

        def write() -> None:
            for part in packed.result():
                self._shards.write(part)

        self._submit(write, count)

    def finish(self) -> dict[str, str]:
        """Waits for all writes.

        Returns:
            The sha256 of each shard, by file name.
        """
        while self._writes:
            self._writes.popleft().result()
        return self._shards.digests

    def _submit(self, write: Callable[[], None], count: int) -> None:
        def task() -> None:
            try:
                write()
            finally:
                with self._room:
                    self._moving -= count
                    self._room.notify()

        self._writes.append(self._writer.submit(task))
        while self._writes and self._writes[0].done():
            self._writes.popleft().result()

    def _wait(self, count: int) -> None:
        self._room.wait_for(
            lambda: not self._moving or self._held + self._moving + count <= IN_FLIGHT
        )


class _ShardWriter:
    """Writes the shards one after the other from a stream of tensor bytes, hashing on the way."""

    def __init__(self, shards: Mapping[str, list[Spec]], out: Path) -> None:
        self.digests: dict[str, str] = {}
        self._pending = deque(shards.items())
        self._out = out
        self._file: IO[bytes] | None = None
        self._name = ""
        self._left = 0

    def write(self, data: Buffer) -> None:
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

    def _put(self, file: IO[bytes], data: Buffer) -> None:
        file.write(data)
        self._hash.update(data)
