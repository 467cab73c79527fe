"""How two tensors of one name differ: in how many elements, how far apart, and in which unit.

Floats are compared as positions on the grid of their format, so that neighbours are one step
apart whatever their magnitude. -0 has a position of its own, just below +0: two elements that
differ in any bit are at least one step apart.
"""

from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from forge.tensors.tensorfile import Tensor

Content = TypeVar("Content")
Fault = Literal["values", "form", "missing", "extra"]
Steps = npt.NDArray[np.int64]

# What a tensor of a quantized linear is, by the end of its name and its dtype (see
# forge.tensors.formats).
# compressed-tensors' global scales are divisors, where ModelOpt's are factors.
KINDS = {
    (".weight", "U8"): "packed weight",
    (".weight_packed", "U8"): "packed weight",
    (".weight_scale", "F8_E4M3"): "block scale",
    (".weight_scale_2", "F32"): "global scale",
    (".weight_global_scale", "F32"): "global divisor",
    (".input_scale", "F32"): "input scale",
    (".input_global_scale", "F32"): "input divisor",
    (".weight", "F8_E4M3"): "FP8 weight",
    (".weight_scale", "BF16"): "row scale",
}
COPIED = "copied tensor"
# Bounds the memory: a position takes 8 bytes, and half a byte of a chunk can have one.
CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The positions of a format's codes, in ascending order of their values."""

    unit: str
    bits: int
    signed: bool = True

    def positions(self, data: bytes) -> Steps:
        """Where each element lies; half bytes in any order, as long as it is always the same."""
        if self.bits == 4:
            packed = np.frombuffer(data, dtype=np.uint8)
            codes = np.concatenate([packed & 0xF, packed >> 4]).astype(np.int64)
        else:
            codes = np.frombuffer(data, dtype=f"<u{self.bits // 8}").astype(np.int64)
        if not self.signed:
            return codes
        magnitudes = codes & ((1 << (self.bits - 1)) - 1)
        return np.where(codes >> (self.bits - 1), -1 - magnitudes, magnitudes)


E2M1 = Grid(unit="E2M1 codes", bits=4)
BYTES = Grid(unit="bytes", bits=8, signed=False)
GRIDS = {
    "F8_E4M3": Grid(unit="E4M3 codes", bits=8),
    "F8_E5M2": Grid(unit="E5M2 codes", bits=8),
    "F16": Grid(unit="float16 ulp", bits=16),
    "BF16": Grid(unit="bf16 ulp", bits=16),
    "F32": Grid(unit="float32 ulp", bits=32),
}


@dataclass(frozen=True, kw_only=True)
class Entry(Generic[Content]):
    """A tensor of a checkpoint: its form, the file it lies in, and its bytes or their digest."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: str
    content: Content

    @property
    def form(self) -> str:
        """Dtype and shape."""
        return f"{self.dtype} {list(self.shape)}"

    @property
    def kind(self) -> str:
        """What the tensor is for a quantized linear, or that it is a copy."""
        matches = (k for (end, dtype), k in KINDS.items() if self._is(end, dtype))
        return next(matches, COPIED)

    def _is(self, end: str, dtype: str) -> bool:
        return self.name.endswith(end) and self.dtype == dtype


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A tensor that is not the same in two checkpoints.

    `before` and `after` are its forms, empty where it is not there. `elements` of `total` differ,
    the two furthest by `largest` units; None where only forms or digests were compared.
    `relative` is |after - before| / |before| of a scalar scale, if that is a number.
    """

    name: str
    kind: str
    file: str
    fault: Fault
    before: str
    after: str
    elements: int | None = None
    total: int | None = None
    largest: int | None = None
    unit: str = ""
    relative: float | None = None


def of_bytes(before: Entry[Tensor], after: Entry[Tensor]) -> Difference | None:
    """Compares stored bytes, in bounded memory; None if they are equal."""
    if before.form != after.form:
        return _described(before, "form", after=after.form)
    grid = _grid(before)
    elements = largest = 0
    pieces = zip(before.content.chunks(CHUNK), after.content.chunks(CHUNK), strict=True)
    for one, other in pieces:
        if one != other:
            steps = np.abs(grid.positions(other) - grid.positions(one))
            elements += int(np.count_nonzero(steps))
            largest = max(largest, int(steps.max()))
    if not elements:
        return None
    return _described(
        before,
        "values",
        elements=elements,
        total=before.content.nbytes * 8 // grid.bits,
        largest=largest,
        unit=grid.unit,
        relative=_relative(before, after),
    )


def of_digests(before: Entry[str], after: Entry[str]) -> Difference | None:
    """Compares forms and digests; None if they are equal."""
    if before.form != after.form:
        return _described(before, "form", after=after.form)
    return None if before.content == after.content else _described(before, "values")


def missing(before: Entry[Any]) -> Difference:
    """A tensor that only the first checkpoint has."""
    return _described(before, "missing", after="")


def extra(after: Entry[Any]) -> Difference:
    """A tensor that only the second checkpoint has."""
    return _described(after, "extra", before="")


def _described(entry: Entry[Any], fault: Fault, **more: Any) -> Difference:
    forms = {"before": entry.form, "after": entry.form}
    return Difference(
        name=entry.name, kind=entry.kind, file=entry.file, fault=fault, **{**forms, **more}
    )


def _grid(entry: Entry[Any]) -> Grid:
    """In what a tensor's differences are counted; bytes, if its dtype is no known float."""
    return E2M1 if entry.kind == "packed weight" else GRIDS.get(entry.dtype, BYTES)


def _relative(before: Entry[Tensor], after: Entry[Tensor]) -> float | None:
    if before.dtype != "F32" or before.content.nbytes != 4:
        return None
    one, other = (float(np.frombuffer(e.content.read(), "<f4")[0]) for e in (before, after))
    with np.errstate(all="ignore"):
        value = abs(np.float64(other) - one) / abs(np.float64(one))
    return float(value) if np.isfinite(value) else None
