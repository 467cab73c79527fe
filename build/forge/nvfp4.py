"""NVFP4 arithmetic, bit for bit as NVIDIA ModelOpt computes it on CUDA.

A linear's weight becomes four tensors: `weight` (two E2M1 codes a byte, the even column in the
low nibble), `weight_scale` (E4M3, one a block of 16 columns), `weight_scale_2` and `input_scale`
(float32 scalars). All arithmetic is IEEE float32 in the order written here, with no fast-math, so
every build of the kernel gives the same bytes. Source: modelopt 0.47.0,
`modelopt/torch/quantization/qtensor/nvfp4_tensor.py`, checked against its exports.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from forge.errors import QuantizeError

BLOCK = 16
E2M1_MAX = 6.0
E4M3_MAX = 448.0

# CUDA divides a tensor by a Python number as a multiplication with the float32 reciprocal; a CPU
# divides. They differ by one unit in the last place for some maxima, and CUDA is the canon.
_RECIPROCAL = np.float32(1.0) / np.float32(E2M1_MAX * E4M3_MAX)

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
# [rows, columns] of float16, float32, or uint16 that are the bits of BF16.
Weight = npt.NDArray[Any]


def global_scale(amax: float | np.float32) -> np.float32:
    """`weight_scale_2` or `input_scale` of a largest magnitude: amax * (1 / 2688) in float32."""
    return np.float32(amax) * _RECIPROCAL


_NUMPY_DTYPES = {"BF16": np.uint16, "F16": np.float16, "F32": np.float32}


def check_shape(name: str, dtype: str, shape: tuple[int, ...]) -> None:
    """Refuses a weight that NVFP4 cannot hold.

    Raises:
        QuantizeError: the dtype is not BF16, F16 or F32, the weight is no matrix, or its columns
            are no multiple of 16.
    """
    if dtype not in _NUMPY_DTYPES:
        raise QuantizeError(f"{name}: dtype {dtype} cannot be quantized; BF16, F16 or F32 can.")
    if len(shape) != 2 or shape[1] % BLOCK or 0 in shape:
        raise QuantizeError(
            f"{name}: shape {list(shape)} cannot be quantized; NVFP4 needs a matrix with a "
            f"multiple of {BLOCK} columns."
        )


def as_weight(data: bytes, dtype: str, shape: tuple[int, ...]) -> Weight:
    """A weight's bytes as an array [rows, columns]; BF16 as the uint16 of its bits."""
    return np.frombuffer(data, dtype=_NUMPY_DTYPES[dtype]).reshape(shape)


def amax(weight: Weight, name: str) -> np.float32:
    """The largest magnitude of a weight, exact.

    Raises:
        QuantizeError: the weight holds a NaN or an infinity.
    """
    if weight.dtype == np.uint16:
        # The bits of finite magnitudes sort as the magnitudes do.
        largest = _largest_magnitude_bits(weight.reshape(-1))
        value = np.array([largest << 16], dtype=np.uint32).view(np.float32)[0]
    else:
        value = np.float32(np.max(np.abs(weight)))
    if not np.isfinite(value):
        raise QuantizeError(f"{name}: holds a NaN or an infinity; the base is damaged.")
    return np.float32(value)


def pack(weight: Weight, scale_2: np.float32) -> tuple[Bytes, Bytes]:
    """Packs a weight [rows, columns] under its global scale.

    Returns:
        The codes [rows, columns / 2] and the E4M3 bits of the block scales [rows, columns / 16].
    """
    rows, columns = weight.shape
    codes = np.empty((rows, columns // 2), dtype=np.uint8)
    scales = np.empty((rows, columns // BLOCK), dtype=np.uint8)
    if weight.dtype == np.uint16:
        _pack_bf16(weight, np.float32(scale_2), E4M3_VALUES, codes, scales)
    else:
        _pack_f32(weight.astype(np.float32), np.float32(scale_2), E4M3_VALUES, codes, scales)
    return codes, scales


def dequantize(codes: Bytes, scales: Bytes, scale_2: np.float32) -> Floats:
    """The values [rows, columns] that codes and scales stand for."""
    nibbles = np.stack([codes & 0xF, codes >> 4], axis=-1).reshape(*codes.shape[:-1], -1)
    steps = E4M3_VALUES[scales] * np.float32(scale_2)
    return E2M1_VALUES[nibbles] * np.repeat(steps, BLOCK, axis=-1)


E2M1_VALUES = np.array(
    [0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6], dtype=np.float32
)


def _e4m3_values() -> Floats:
    """The value of each of the 256 codes of float8_e4m3fn."""
    codes = np.arange(256)
    exponent, mantissa = (codes >> 3) & 0xF, codes & 7
    values = np.where(exponent == 0, mantissa * 2.0**-9, (8 + mantissa) * 2.0 ** (exponent - 10.0))
    values[(codes & 0x7F) == 0x7F] = np.nan
    return np.where(codes >= 128, -values, values).astype(np.float32)


E4M3_VALUES = _e4m3_values()


_jit = njit(cache=True, nogil=True)
_inline = njit(cache=True, nogil=True, inline="always")


@_jit
def _largest_magnitude_bits(bits: npt.NDArray[np.uint16]) -> np.uint32:
    largest = np.uint16(0)
    for i in range(bits.size):
        largest = max(largest, bits[i] & np.uint16(0x7FFF))
    return np.uint32(largest)


@_inline
def _e4m3_bits(value: np.float32) -> np.uint8:
    """Rounds a value in [2**-9, 448] to nearest even E4M3."""
    if value < np.float32(2.0**-6):  # subnormal: steps of 2**-9
        return np.uint8(np.rint(value * np.float32(512.0)))
    for exponent in range(-6, 9):
        if value < np.float32(2.0 ** (exponent + 1)):
            steps = np.uint8(np.rint(value * np.float32(2.0 ** (3 - exponent))))  # 8..16
            return np.uint8((exponent + 6) * 8 + steps)  # 16 carries into the next exponent
    return np.uint8(0x7E)


@_inline
def _pack_row(  # noqa: PLR0917 - numba has no keyword-only arguments
    row: Floats, scale_2: np.float32, e4m3: Floats, codes: Bytes, scales: Bytes, nibbles: Bytes
) -> None:
    for block in range(scales.size):
        largest = np.float32(0.0)
        for i in range(block * 16, block * 16 + 16):
            largest = max(largest, abs(row[i]))
        scale = largest / (np.float32(6.0) * scale_2)
        if scale == np.float32(0.0):
            scale = np.float32(1.0)
        scale = min(max(scale, np.float32(2.0**-9)), np.float32(448.0))
        bits = _e4m3_bits(scale)
        scales[block] = bits
        step = e4m3[bits] * scale_2
        for i in range(block * 16, block * 16 + 16):
            quotient = row[i] / step
            x = abs(quotient)
            # Round half to even onto 0 0.5 1 1.5 2 3 4 6: ties at .75, 1.75, 3.5 go up.
            code = (
                np.uint8(x > np.float32(0.25))
                + np.uint8(x >= np.float32(0.75))
                + np.uint8(x > np.float32(1.25))
                + np.uint8(x >= np.float32(1.75))
                + np.uint8(x > np.float32(2.5))
                + np.uint8(x >= np.float32(3.5))
                + np.uint8(x > np.float32(5.0))
            )
            # The quotient's sign, not the weight's: what underflows to -0.0 is stored as +0.
            nibbles[i] = code | (np.uint8(quotient < np.float32(0.0)) << np.uint8(3))
    for j in range(codes.size):
        codes[j] = nibbles[2 * j] | np.uint8(nibbles[2 * j + 1] << np.uint8(4))


@_jit
def _pack_bf16(
    bits: npt.NDArray[np.uint16], scale_2: np.float32, e4m3: Floats, codes: Bytes, scales: Bytes
) -> None:
    wide = np.empty(bits.shape[1], dtype=np.uint32)
    nibbles = np.empty(bits.shape[1], dtype=np.uint8)
    for r in range(bits.shape[0]):
        for i in range(bits.shape[1]):
            wide[i] = np.uint32(bits[r, i]) << np.uint32(16)
        _pack_row(wide.view(np.float32), scale_2, e4m3, codes[r], scales[r], nibbles)


@_jit
def _pack_f32(
    weight: Floats, scale_2: np.float32, e4m3: Floats, codes: Bytes, scales: Bytes
) -> None:
    nibbles = np.empty(weight.shape[1], dtype=np.uint8)
    for r in range(weight.shape[0]):
        _pack_row(weight[r], scale_2, e4m3, codes[r], scales[r], nibbles)
