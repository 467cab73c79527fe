"""The tensors of files by name, each with the sha256 of its bytes: a line of JSON a tensor.

The digests are taken while the bytes pass, on their way in or out, so that nothing is read for
them alone.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from sys import maxsize
from types import MappingProxyType
from typing import Protocol

from forge.core import canonical
from forge.core.boundary import naming
from forge.core.errors import BaseError, TensorFileError
from forge.manifest.names import TENSORS
from forge.manifest.tensor_list import TensorLine
from forge.tensors import tensorfile
from forge.tensors.tensorfile import Spec, Tensor
from forge.tensors.values import Values

FILE = TENSORS


def of_input(role: str) -> str:
    """Where fetch leaves the tensors of a checkpoint: `base` or `donor`."""
    return f"tensors/{role}.jsonl"


class Hash(Protocol):
    """A digest that grows with the bytes it is given, as hashlib's do."""

    def update(self, data: memoryview, /) -> None:
        """Takes the next bytes."""

    def hexdigest(self) -> str:
        """The digest of all bytes so far."""


NewHash = Callable[[], Hash]
Feed = Callable[[memoryview], None]


class Passing:
    """Takes the digest of each tensor of one file while the file's bytes pass, from its front on.

    Args:
        file: the file's name.
        header: the bytes before the first tensor.
        specs: the tensors in the order of their data.
        known: digests of tensors that need not be taken, by name.
        new_hash: begins each digest.
        look: begins to look at the values of a tensor; what it returns is given their bytes.
    """

    def __init__(
        self,
        file: str,
        header: int,
        specs: Iterable[Spec],
        known: Mapping[str, str] = MappingProxyType({}),
        new_hash: NewHash = sha256,
        *,
        look: Callable[[Spec], Feed | None] = lambda _: None,
    ) -> None:
        self._file = file
        self._known = known
        self._ended: list[tuple[Spec, Hash | None]] = []
        self._pending = deque(specs)
        self._new_hash = new_hash
        self._look = look
        self._looking: Feed | None = None
        self._open: tuple[Spec, Hash | None] | None = None
        self._left = header  # bytes up to the end of the tensor that is open, or of the header

    def update(self, data: bytes | memoryview) -> None:
        """Takes the next bytes of the file."""
        view = memoryview(data)
        while view:
            part, view = view[: self._left], view[self._left :]
            self._left -= len(part)
            if self._open is not None and self._open[1] is not None:
                self._open[1].update(part)
            if self._looking is not None:
                self._looking(part)
            while not self._left:
                self._next()

    def lines(self) -> list[TensorLine]:
        """The tensors that have passed as a whole."""
        return [
            line(spec, digest.hexdigest() if digest else self._known[spec.name], self._file)
            for spec, digest in self._ended
        ]

    def _next(self) -> None:
        """Puts the tensor that has ended with the others, and opens the next."""
        if self._open is not None:
            self._ended.append(self._open)
        if self._pending:
            spec = self._pending.popleft()
            digest = None if spec.name in self._known else self._new_hash()
            self._open, self._left, self._looking = (spec, digest), spec.nbytes, self._look(spec)
        else:  # whatever follows is no tensor's
            self._open, self._left, self._looking = None, maxsize, None


class Arriving:
    """As :class:`Passing`, of a file whose header passes, too; looks at every value.

    A file that breaks the format, or holds what is no number, is told when its tensors are asked
    for: by then it is known whether it is the file that was meant.

    Args:
        path: the file.
        size: its size in bytes.
        most: the largest header that is read.
        keep: the largest tensor whose bytes are kept, in `small`.
        extremes: of which tensors, by name, the smallest and the largest bits are kept.
    """

    def __init__(
        self,
        path: Path,
        size: int,
        *,
        most: int = tensorfile.MAX_HEADER_BYTES,
        keep: int = 0,
        extremes: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self._path, self._size, self._most, self._keep = path, size, most, keep
        self._extremes = extremes
        self._begin = bytearray()
        self._tensors: list[Tensor] = []
        self.header_bytes = 0
        self.small: dict[str, bytearray] = {}
        self._passing: Passing | None = None
        self._error: TensorFileError | None = None
        self._values: list[Values] = []

    def update(self, data: bytes) -> None:
        """Takes the next bytes of the file."""
        if self._passing is not None:
            self._passing.update(data)
        elif self._error is None:
            self._begin += data
            try:
                self._parse()
            except TensorFileError as error:
                self._error = error

    def lines(self) -> list[TensorLine]:
        """The tensors of the file, when all of it has passed.

        Raises:
            TensorFileError: it breaks the format.
            BaseError: a value is NaN or infinite.
        """
        self.header()
        for values in self._values:
            self._require_finite(values)
        return [] if self._passing is None else self._passing.lines()

    def header(self) -> list[Tensor]:
        """The tensors of the file in the order of their data.

        Raises:
            TensorFileError: it breaks the format.
        """
        if self._passing is None:
            raise self._error or TensorFileError(f"{self._path}: is truncated. Fetch it again.")
        return self._tensors

    @property
    def extremes(self) -> dict[str, tuple[int, int]]:
        """The smallest and the largest bits of the tensors that were asked for, by name."""
        return {one.name: one.extremes for one in self._values if one.extremes is not None}

    def _parse(self) -> None:
        begin, first = self._begin, tensorfile.LENGTH_BYTES
        if len(begin) < first:
            return
        prefix = bytes(begin[:first])
        end = first + tensorfile.header_length(self._path, self._size, prefix, self._most)
        if len(begin) < end:
            return
        self._tensors = tensorfile.parse_header(self._path, self._size, bytes(begin[first:end]))
        specs, self.header_bytes = [tensor.spec for tensor in self._tensors], end
        self._passing = Passing(self._path.name, end, specs, look=self._look)
        self._passing.update(bytes(begin))
        self._begin = bytearray()

    def _look(self, spec: Spec) -> Feed:
        self._values.append(Values(spec, extremes=self._extremes(spec.name)))
        look = self._values[-1].update
        if spec.nbytes > self._keep:
            return look
        kept = self.small[spec.name] = bytearray()

        def look_and_keep(data: memoryview) -> None:
            kept.extend(data)
            look(data)

        return look_and_keep

    def _require_finite(self, values: Values) -> None:
        if values.fault is not None:
            raise BaseError(
                f"{self._path}: the tensor {values.name!r} {values.fault}. No model computes with "
                "that: take another checkpoint, or the file as it was before it was damaged."
            )


def line(spec: Spec, digest: str, file: str) -> TensorLine:
    """The line of a tensor."""
    return TensorLine(
        name=spec.name,
        dtype=spec.dtype,
        shape=spec.shape,
        nbytes=spec.nbytes,
        sha256=digest,
        file=file,
    )


def by_name(line: TensorLine) -> str:
    """The order of the lists that are released."""
    return line.name


def by_file(line: TensorLine) -> str:
    """The order in which a checkpoint is read, given lines in the order of each file's data."""
    return line.file


def text(lines: Iterable[TensorLine], order: Callable[[TensorLine], str] = by_name) -> str:
    """The lines in canonical JSON, in an order."""
    return b"".join(one.encoded() for one in sorted(lines, key=order)).decode()


def write(
    path: Path, lines: Sequence[TensorLine], order: Callable[[TensorLine], str] = by_name
) -> str:
    """Writes the lines; returns the file's sha256."""
    written = text(lines, order)
    path.parent.mkdir(exist_ok=True)
    path.write_text(written, encoding="utf-8")
    return canonical.sha256_text(written)


def read(path: Path) -> dict[str, TensorLine]:
    """The lines of a file by the names of the tensors, in their order.

    Raises:
        TensorFileError: a line is malformed or names a tensor again.
        OSError: the system does not let it be read.
    """
    with naming(path):
        return parse(path.read_bytes(), str(path))


def parse(data: bytes, where: str) -> dict[str, TensorLine]:
    """The lines of a file by the names of the tensors; `where` names it in messages.

    Raises:
        TensorFileError: a line is malformed or names a tensor again.
    """
    try:
        lines = [TensorLine.parse(one) for one in data.splitlines()]
    except ValueError as error:
        raise TensorFileError(f"{where}: is no list of tensors: {error}.") from error
    found = {one.name: one for one in lines}
    if len(found) != len(lines):
        raise TensorFileError(f"{where}: names a tensor twice.")
    return found
