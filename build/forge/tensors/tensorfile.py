"""The safetensors format: strict reading of headers, deterministic writing.

A file is an 8-byte little-endian header length, a JSON header (name -> dtype, shape, offsets into
the data that follows) and the data without gaps. The `safetensors` library has no numpy type for
BF16 and FP8 and hands out whole tensors; here a tensor is a range of bytes of a file, so a
checkpoint of any size can be checked and rebuilt in bounded memory and without torch.
Source: https://github.com/huggingface/safetensors#format
"""

import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from forge.core import canonical
from forge.core.boundary import naming
from forge.core.errors import TensorFileError

INDEX = "model.safetensors.index.json"
SUFFIX = ".safetensors"
DTYPE_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4,
    "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip
# What a file begins with: the length of its header.
LENGTH_BYTES = 8
# The limit that the safetensors library sets as well.
MAX_HEADER_BYTES = 100_000_000
MAX_DIMENSIONS = 64


@dataclass(frozen=True, kw_only=True)
class Spec:
    """A tensor that is yet to be written."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """The size of its data in bytes."""
        return prod(self.shape) * DTYPE_BYTES[self.dtype]


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """Where a tensor's bytes lie: `nbytes` bytes at `offset` of `file`, row-major."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int
    nbytes: int

    @property
    def spec(self) -> Spec:
        """What a file that gets a copy of it must declare."""
        return Spec(name=self.name, dtype=self.dtype, shape=self.shape)

    def chunks(self, size: int = 16 << 20) -> Iterator[bytes]:
        """The tensor's bytes in pieces of at most `size`.

        Raises:
            TensorFileError: the file ends before the tensor does.
        """
        with naming(self.file), self.file.open("rb", buffering=0) as file:
            for start in range(0, self.nbytes, size):
                yield self.part(file.fileno(), start, min(size, self.nbytes - start))

    def part(self, descriptor: int, start: int, count: int) -> bytes:
        """Some of the tensor's bytes, from an open descriptor of its file.

        Raises:
            TensorFileError: the file ends before they do.
        """
        pieces = []
        while count:
            data = os.pread(descriptor, count, self.offset + start)
            if not data:
                raise TensorFileError(
                    f"{self.file}: ends within tensor {self.name!r}; fetch the file again."
                )
            pieces.append(data)
            start, count = start + len(data), count - len(data)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def read(self) -> bytes:
        """The tensor's bytes at once."""
        return b"".join(self.chunks())


def read_header(path: Path) -> list[Tensor]:
    """The tensors of one file in the order of their data.

    Raises:
        TensorFileError: the file breaks the format in any way: length, JSON, duplicate names,
            unknown dtype, a size that is not its shape's, gaps, overlaps, or trailing bytes.
    """
    size = path.stat().st_size
    with naming(path), path.open("rb", buffering=0) as file:
        prefix = file.read(LENGTH_BYTES)
        return parse_header(path, size, file.read(header_length(path, size, prefix)))


def header_length(path: Path, size: int, prefix: bytes, most: int = MAX_HEADER_BYTES) -> int:
    """The bytes of a header, by those before it.

    Raises:
        TensorFileError: there are more than `most`, or cannot be so many in a file of this size.
    """
    length = int.from_bytes(prefix, "little")
    if most < length <= size - LENGTH_BYTES:
        raise TensorFileError(f"{path}: the header has {length} bytes, more than {most}.")
    if size < LENGTH_BYTES or length > size - LENGTH_BYTES:
        raise TensorFileError(
            f"{path}: the header claims {length} bytes, the file has "
            f"{max(size - LENGTH_BYTES, 0)} after the length; it is truncated or no safetensors "
            "file. Fetch it again."
        )
    return length


def parse_header(path: Path, size: int, raw: bytes) -> list[Tensor]:
    """As :func:`read_header`, of the bytes of the header that a file of this size has."""
    if raw[:1] != b"{":
        raise TensorFileError(f"{path}: the header is no JSON object: it begins with {raw[:1]!r}.")
    try:
        header = canonical.loads(raw)
    except ValueError as error:
        raise TensorFileError(f"{path}: the header is not valid JSON: {error}.") from error
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise TensorFileError(
            f"{path}: __metadata__ must map names to text, as the safetensors library wants it. "
            "Save the file again with that library."
        )
    start = LENGTH_BYTES + len(raw)
    tensors = [_parse(path, name, entry, start) for name, entry in header.items()]
    tensors.sort(key=lambda tensor: (tensor.offset, tensor.nbytes))
    _check_contiguous(path, tensors, start=start, end=size)
    return tensors


def files_in(folder: Path) -> list[Path]:
    """The files of tensors in a folder, sorted.

    Raises:
        OSError: the folder cannot be read.
    """
    return sorted(path for path in folder.iterdir() if path.suffix == SUFFIX)


def read_checkpoint(folder: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint folder by name: through its index, or of its one file.

    The order is that of the data on disk, file by file, so reading the tensors in turn reads
    every byte once and in sequence.

    Raises:
        TensorFileError: as for :func:`join`, or a file breaks the format.
    """
    index = folder / INDEX
    weight_map = read_index(index) if index.is_file() else None
    names = [path.name for path in files_in(folder) if path.is_file()]
    return join(folder, weight_map, names, lambda name: read_header(folder / name))


def join(
    folder: Path,
    weight_map: Mapping[str, str] | None,
    names: Collection[str],
    header: Callable[[str], Iterable[Tensor]],
) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name.

    Args:
        folder: where it lies, for messages.
        weight_map: the file of each tensor, by the index; None if there is no index.
        names: the files of tensors in the folder.
        header: gives the tensors of a file.

    Raises:
        TensorFileError: index and files disagree, a file is missing or lies outside the folder,
            or a file is not in the index.
    """
    index = folder / INDEX
    if weight_map is None:
        if len(names) != 1:
            raise TensorFileError(
                f"{folder}: has no {INDEX} and {len(names)} *.safetensors files; "
                "a checkpoint has an index, or exactly one file."
            )
        return {tensor.name: tensor for name in names for tensor in header(name)}
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(weight_map.values())):
        if name not in names:
            raise TensorFileError(
                f"{index}: names the file {name!r:.300}, which is not a file of this folder."
            )
        for tensor in header(name):
            if weight_map.get(tensor.name) != name:
                raise TensorFileError(
                    f"{index}: tensor {tensor.name!r} lies in {name}, "
                    f"the index says {weight_map.get(tensor.name)!r}."
                )
            tensors[tensor.name] = tensor
    if missing := sorted(weight_map.keys() - tensors.keys()):
        raise TensorFileError(
            f"{index}: names {len(missing)} tensor(s) that no file holds, first {missing[0]!r}."
        )
    if extra := sorted({*names} - {*weight_map.values()}):
        raise TensorFileError(f"{folder}: {extra[0]} is not in the index; remove or index it.")
    return tensors


def header_bytes(specs: Sequence[Spec], metadata: Mapping[str, str] | None = None) -> bytes:
    """Length and header of a file that holds `specs` in the given order.

    The header is padded with spaces to a multiple of 8 bytes, so that the data is aligned. The
    bytes depend on nothing but the arguments (the library writes metadata keys in random order).
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for spec in specs:
        header[spec.name] = {
            "dtype": spec.dtype,
            "shape": list(spec.shape),
            "data_offsets": [offset, offset + spec.nbytes],
        }
        offset += spec.nbytes
    raw = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    raw += b" " * (-len(raw) % 8)
    return len(raw).to_bytes(8, "little") + raw


def index_json(placed: Iterable[tuple[str, Spec]]) -> dict[str, Any]:
    """The index of a checkpoint from (file name, tensor) pairs.

    `total_size` is the sum of the tensors' bytes, as transformers writes it.
    """
    pairs = list(placed)
    return {
        "metadata": {"total_size": sum(spec.nbytes for _, spec in pairs)},
        "weight_map": {spec.name: file for file, spec in sorted(pairs, key=lambda p: p[1].name)},
    }


def read_index(index: Path) -> Mapping[str, str]:
    """The file of each tensor, by an index.

    Raises:
        TensorFileError: it is no index.
    """
    with naming(index):
        return parse_index(index, index.read_bytes())


def parse_index(index: Path, data: bytes) -> Mapping[str, str]:
    """As :func:`read_index`, of the bytes of an index."""
    try:
        weight_map = canonical.loads(data)["weight_map"]
    except (ValueError, KeyError, TypeError) as error:
        raise TensorFileError(f"{index}: no valid index: {error}.") from error
    if not isinstance(weight_map, dict) or not all(isinstance(f, str) for f in weight_map.values()):
        raise TensorFileError(f"{index}: weight_map must map tensor names to file names.")
    return weight_map


def _parse(path: Path, name: str, entry: dict[str, Any], start: int) -> Tensor:
    try:
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    except (KeyError, TypeError, ValueError) as error:
        raise TensorFileError(
            f"{path}: tensor {name!r} needs dtype, shape and two data_offsets."
        ) from error
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise TensorFileError(f"{path}: tensor {name!r} has the unknown dtype {dtype!r}.")
    sizes = [*shape, begin, end] if isinstance(shape, list) else []
    # Beyond 64 bits or so many dimensions, no library reads it and a product takes long.
    if (
        not sizes
        or len(sizes) > MAX_DIMENSIONS
        or any(type(size) is not int or not 0 <= size < 1 << 63 for size in sizes)
    ):
        raise TensorFileError(f"{path}: tensor {name!r} has a shape or offset that is no size.")
    nbytes = prod(shape) * DTYPE_BYTES[dtype]
    if end - begin != nbytes:
        raise TensorFileError(
            f"{path}: tensor {name!r} of {dtype} {shape} needs {nbytes} bytes, "
            f"its offsets give {end - begin}."
        )
    return Tensor(
        name=name, dtype=dtype, shape=tuple(shape), file=path, offset=start + begin, nbytes=nbytes
    )


def _check_contiguous(path: Path, tensors: Sequence[Tensor], *, start: int, end: int) -> None:
    position = start
    for tensor in tensors:
        if tensor.offset != position:
            raise TensorFileError(
                f"{path}: tensor {tensor.name!r} begins at byte {tensor.offset}, expected "
                f"{position}: tensors overlap or leave a gap."
            )
        position += tensor.nbytes
    if position != end:
        raise TensorFileError(
            f"{path}: the tensors end at byte {position}, the file at {end}; it is truncated "
            "or has trailing bytes. Fetch it again."
        )
