"""How far quantized weights are from those of the base: a figure a linear.

The figure is the relative error |Q - W| / |W| in the Frobenius norm, computed in double precision
from the stored tensors and the base, in an order of its own, so that it is the same on any machine.
It needs the base, and neither torch nor a GPU.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import inf, isnan, sqrt

import numpy as np

from forge.core import canonical, console
from forge.tensors import loops, nvfp4
from forge.tensors.formats import Loader
from forge.tensors.nvfp4 import BLOCK
from forge.tensors.plan import Linear, Plan
from forge.tensors.small_floats import E4M3_VALUES, Bytes, Floats, widen_bf16
from forge.tensors.tensorfile import DTYPE_BYTES, Tensor

# Elements that are worked on at a time.
CHUNK = 1 << 22
WIDEN: Mapping[str, Callable[[bytes], Floats]] = {
    "BF16": lambda data: widen_bf16(np.frombuffer(data, dtype="<u2")),
    "F16": lambda data: np.frombuffer(data, dtype="<f2").astype(np.float32),
    "F32": lambda data: np.frombuffer(data, dtype="<f4"),
}

Parts = Mapping[str, Tensor]
# Values of some rows, and a factor that all of them have.
Read = tuple[Floats, float]
Rows = Callable[[Parts, str, range, int], Read]


@dataclass(frozen=True, kw_only=True)
class Error:
    """A linear's squared error and squared norm, and the format that it is stored in."""

    module: str
    format: str
    squared_error: float
    squared_norm: float

    @property
    def relative(self) -> float:
        """|Q - W| / |W|; infinite if a NaN is stored, or anything but zeros of a zero weight."""
        if self.squared_error == 0:
            return 0.0
        if self.squared_norm == 0 or isnan(self.squared_error):
            return inf
        return sqrt(self.squared_error / self.squared_norm)


def measure(plan: Plan, base: Parts, stored: Parts, loader: Loader) -> list[Error]:
    """The error of every quantized linear, sorted by module; all of their tensors must be there.

    Args:
        plan: says which linears, where their weights lie in the base, and in what they are stored.
        base: the base's tensors by name.
        stored: the result's.
        loader: whose formats these are.
    """
    linears = sorted(plan.linears.values(), key=lambda one: one.module)
    with (
        console.count_bar("errors", len(linears)) as advance,
        ThreadPoolExecutor(max_workers=2) as pool,
    ):

        def one(linear: Linear) -> Error:
            error = of(linear, base, stored, loader)
            advance(1)
            return error

        return list(pool.map(one, linears))


def lines(errors: list[Error]) -> str:
    """A line of canonical JSON a linear."""
    return "".join(
        canonical.dumps(
            {
                "module": error.module,
                "format": error.format,
                "squared_error": error.squared_error,
                "squared_norm": error.squared_norm,
            }
        )
        + "\n"
        for error in errors
    )


def parse(text: str) -> list[Error]:
    """What `lines` wrote."""
    return [Error(**canonical.loads(line.encode())) for line in text.splitlines()]


def of(linear: Linear, base: Parts, stored: Parts, loader: Loader) -> Error:
    """The error of one linear, whose tensors are all there."""
    rows, columns = linear.place.shape
    read = _ROWS[loader, linear.format.name]
    step = max(1, CHUNK // columns)
    error = norm = 0.0
    for start in range(0, rows, step):
        part = range(start, min(rows, start + step))
        exact = _weight(linear, base[linear.place.tensor], part)
        sums = loops.squares(*read(stored, linear.module, part, columns), exact)
        error, norm = error + sums[0], norm + sums[1]
    return Error(
        module=linear.module,
        format=linear.format.name,
        squared_error=error,
        squared_norm=norm,
    )


def _weight(linear: Linear, weight: Tensor, rows: range) -> Floats:
    columns = linear.place.shape[1]
    size = DTYPE_BYTES[weight.dtype]
    start = linear.place.start + rows.start * columns
    data = _bytes(weight, start * size, len(rows) * columns * size)
    return WIDEN[weight.dtype](data).reshape(len(rows), columns)


def _modelopt_nvfp4(stored: Parts, module: str, rows: range, columns: int) -> Read:
    values = _nvfp4(stored, f"{module}.weight", f"{module}.weight_scale", rows, columns)
    return values, _scalar(stored[f"{module}.weight_scale_2"])


def _compressed_nvfp4(stored: Parts, module: str, rows: range, columns: int) -> Read:
    values = _nvfp4(stored, f"{module}.weight_packed", f"{module}.weight_scale", rows, columns)
    return values, 1 / _scalar(stored[f"{module}.weight_global_scale"])


def _nvfp4(stored: Parts, codes: str, scales: str, rows: range, columns: int) -> Floats:
    packed = _rows(stored[codes], rows, columns // 2)
    blocks = _rows(stored[scales], rows, columns // BLOCK)
    return nvfp4.dequantize(packed, blocks, np.float32(1))


def _fp8(stored: Parts, module: str, rows: range, columns: int) -> Read:
    codes = _rows(stored[f"{module}.weight"], rows, columns)
    scales = _bytes(stored[f"{module}.weight_scale"], rows.start * 2, len(rows) * 2)
    return E4M3_VALUES[codes] * WIDEN["BF16"](scales)[:, None], 1.0


_ROWS: Mapping[tuple[str, str], Rows] = {
    ("modelopt", "nvfp4"): _modelopt_nvfp4,
    ("compressed-tensors", "nvfp4"): _compressed_nvfp4,
    ("compressed-tensors", "fp8"): _fp8,
}


def _rows(tensor: Tensor, rows: range, width: int) -> Bytes:
    data = _bytes(tensor, rows.start * width, len(rows) * width)
    return np.frombuffer(data, dtype=np.uint8).reshape(len(rows), width)


def _scalar(tensor: Tensor) -> float:
    return float(np.frombuffer(tensor.read(), dtype="<f4")[0])


def _bytes(tensor: Tensor, start: int, count: int) -> bytes:
    """A part of a tensor's bytes; the header has promised that they are there."""
    with tensor.file.open("rb") as file:
        file.seek(tensor.offset + start)
        return file.read(count)
