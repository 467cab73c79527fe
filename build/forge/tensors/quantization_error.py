"""How far quantized weights are from those of the base: a figure a linear.

The figure is the relative error |Q - W| / |W| in the Frobenius norm, computed in double precision
from the stored tensors and the base, in an order of its own, so that it is the same on any machine.
It needs the base, and neither torch nor a GPU.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np

from forge.tensors import loops, nvfp4
from forge.tensors.formats import Loader
from forge.tensors.plan import Linear
from forge.tensors.small_floats import BLOCK, E4M3_VALUES, Bytes, Floats, widen_bf16
from forge.tensors.weight_errors import Error

# Elements that are worked on at a time.
CHUNK = 1 << 22
WIDEN: Mapping[str, Callable[[bytes], Floats]] = {
    "BF16": lambda data: widen_bf16(np.frombuffer(data, dtype="<u2")),
    "F16": lambda data: np.frombuffer(data, dtype="<f2").astype(np.float32),
    "F32": lambda data: np.frombuffer(data, dtype="<f4"),
}

# The data of a linear's scale tensors, by the last part of their names.
Scales = Mapping[str, bytes]
# Values of some rows, and a factor that all of them have.
Read = tuple[Floats, float]
Rows = Callable[[bytes, Scales, range, int], Read]


def steps(linear: Linear) -> Iterator[range]:
    """The rows of a linear in parts, in the order in which their squares are added up."""
    rows, columns = linear.place.shape
    step = max(1, CHUNK // columns)
    for start in range(0, rows, step):
        yield range(start, min(rows, start + step))


def squares(  # noqa: PLR0917 - what a linear is, and three kinds of bytes of some of its rows
    linear: Linear,
    loader: Loader,
    rows: range,
    codes: bytes,
    scales: Scales,
    exact: bytes,
    dtype: str,
) -> tuple[float, float]:
    """|Q - W|^2 and |W|^2 of some rows.

    Args:
        linear: whose rows they are.
        loader: whose format it is stored in.
        rows: which they are.
        codes: what is stored for them in the first tensor of the format.
        scales: all of the other tensors, none zero or NaN.
        exact: the weights of the base.
        dtype: theirs.
    """
    columns = linear.place.shape[1]
    weights = WIDEN[dtype](exact).reshape(len(rows), columns)
    read = _ROWS[loader, linear.format.name]
    found: tuple[float, float] = loops.squares(*read(codes, scales, rows, columns), weights)
    return found


def total(linear: Linear, parts: Iterable[tuple[float, float]]) -> Error:
    """The error of a linear, of the squares of its parts in their order."""
    error = norm = 0.0
    for squared_error, squared_norm in parts:
        error, norm = error + squared_error, norm + squared_norm
    return Error(
        module=linear.module,
        format=linear.format.name,
        squared_error=error,
        squared_norm=norm,
    )


def _modelopt_nvfp4(codes: bytes, scales: Scales, rows: range, columns: int) -> Read:
    return _nvfp4(codes, scales, rows, columns), _scalar(scales["weight_scale_2"])


def _compressed_nvfp4(codes: bytes, scales: Scales, rows: range, columns: int) -> Read:
    return _nvfp4(codes, scales, rows, columns), 1 / _scalar(scales["weight_global_scale"])


def _nvfp4(codes: bytes, scales: Scales, rows: range, columns: int) -> Floats:
    packed = np.frombuffer(codes, dtype=np.uint8).reshape(len(rows), columns // 2)
    width = columns // BLOCK
    blocks = _part(scales["weight_scale"], rows, width).reshape(len(rows), width)
    return nvfp4.dequantize(packed, blocks, np.float32(1))


def _fp8(codes: bytes, scales: Scales, rows: range, columns: int) -> Read:
    packed = np.frombuffer(codes, dtype=np.uint8).reshape(len(rows), columns)
    factors = WIDEN["BF16"](_part(scales["weight_scale"], rows, 2).tobytes())
    return E4M3_VALUES[packed] * factors[:, None], 1.0


_ROWS: Mapping[tuple[str, str], Rows] = {
    ("modelopt", "nvfp4"): _modelopt_nvfp4,
    ("compressed-tensors", "nvfp4"): _compressed_nvfp4,
    ("compressed-tensors", "fp8"): _fp8,
}


def _part(data: bytes, rows: range, width: int) -> Bytes:
    """The bytes of some rows that are `width` bytes long."""
    return np.frombuffer(data, np.uint8, len(rows) * width, rows.start * width)


def _scalar(data: bytes) -> float:
    return float(np.frombuffer(data, dtype="<f4")[0])
