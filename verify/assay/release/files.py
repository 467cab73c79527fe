"""What a file of a release is: its digest, its tensors, and its bytes where they are looked into.

Each file is read once, from the descriptor that was opened for the whole verification, so whatever
is said of it is said of the bytes that were hashed.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from forge.core import foreign
from forge.manifest.limits import MIB, most_of
from forge.manifest.names import PROVENANCE
from forge.tensors import tensorfile
from forge.tensors.formats import BLOCK_SCALES
from forge.tensors.tensor_list import Arriving

MOST_HEADER = 16 * MIB  # of a file with tensors; those of the largest checkpoints have one or two
MOST_HEADERS = 128 * MIB  # of all of them
# Files of the checkpoint that are neither tensors nor larger are kept, while there is room.
MOST_KEPT = 256 * MIB
SMALL = 8  # bytes of a tensor that is one number


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A file: its digest and, if it was kept, the bytes that were hashed.

    Of a file with tensors, `tensors` has their digests and numbers, taken of the same bytes.
    """

    sha256: str
    data: bytes | None = None
    tensors: Arriving | None = None

    @property
    def numbers(self) -> Mapping[str, bytes]:
        """The bytes of the tensors that are one number, by name."""
        small = {} if self.tensors is None else self.tensors.small
        return {name: bytes(data) for name, data in small.items()}

    @property
    def extremes(self) -> Mapping[str, tuple[int, int]]:
        """The smallest and the largest bits of the scales of blocks and rows, by tensor."""
        return {} if self.tensors is None else self.tensors.extremes


@dataclass(kw_only=True)
class Reader:
    """Reads files of a folder, each once."""

    folder: Path
    files: Mapping[str, foreign.File]
    stored: dict[str, Stored] = field(default_factory=dict)
    _kept: int = 0
    _headers: int = 0

    def read(self, name: str) -> Stored:
        """A file of the folder."""
        if name not in self.stored:
            self.stored[name] = self._read(self.files[name])
        return self.stored[name]

    def read_all(self, names: Iterable[str]) -> None:
        """Reads what was not read yet."""
        for name in names:
            self.read(name)

    def _read(self, file: foreign.File) -> Stored:
        name = file.name
        within = name.partition("/")[0] == PROVENANCE
        if name.endswith(tensorfile.SUFFIX):
            most = min(MOST_HEADER, MOST_HEADERS - self._headers)
            tensors = Arriving(
                self.folder / name, file.size, most=most, keep=SMALL, extremes=_scales_blocks
            )
            digest, kept = sha256(), list[bytes]()
            keep = [kept.append] if within else []
            file.pour(digest.update, tensors.update, *keep)
            self._headers += tensors.header_bytes
            data = b"".join(kept) if within else None
            return Stored(sha256=digest.hexdigest(), data=data, tensors=tensors)
        if within:
            return _of(file.read(most_of(name)))
        if file.size <= MOST_KEPT - self._kept:
            self._kept += file.size
            return _of(file.read(MOST_KEPT))
        digest = sha256()
        file.pour(digest.update)
        return Stored(sha256=digest.hexdigest())


def _scales_blocks(tensor: str) -> bool:
    return tensor.rpartition(".")[2] in BLOCK_SCALES


def _of(data: bytes) -> Stored:
    return Stored(sha256=sha256(data).hexdigest(), data=data)
