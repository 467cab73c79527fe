"""E2M1, E4M3 and BF16, and the global scales of NVFP4, in numpy alone.

A release is checked with no more than this. What packs and unpacks whole weights is compiled; it
is in :mod:`forge.tensors.nvfp4` and :mod:`forge.tensors.compressed_tensors`, which also name the
sources of each library's arithmetic.
"""

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Bits = npt.NDArray[np.uint16]

# Columns of a weight that share an NVFP4 block's scale.
BLOCK = 16
E2M1_MAX = 6.0
E4M3_MAX = 448.0
E2M1_VALUES = np.array(
    [0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6], dtype=np.float32
)

# CUDA divides a tensor by a Python number as a multiplication with the float32 reciprocal; a CPU
# divides. They differ by one unit in the last place for some maxima, and CUDA is the canon.
_RECIPROCAL = np.float32(1.0) / np.float32(E2M1_MAX * E4M3_MAX)
SMALLEST_NORMAL = np.float32(2.0**-126)


def _e4m3_values() -> Floats:
    """The value of each of the 256 codes of float8_e4m3fn."""
    codes = np.arange(256)
    exponent, mantissa = (codes >> 3) & 0xF, codes & 7
    values = np.where(exponent == 0, mantissa * 2.0**-9, (8 + mantissa) * 2.0 ** (exponent - 10.0))
    values[(codes & 0x7F) == 0x7F] = np.nan
    return np.where(codes >= 128, -values, values).astype(np.float32)


E4M3_VALUES = _e4m3_values()


def nearest_e4m3(values: Floats) -> Bytes:
    """The E4M3 bits nearest to values from 0 to 448, ties to even."""
    grid = E4M3_VALUES[:0x7F]  # the finite codes, ascending
    above = np.searchsorted(grid, values)
    below = np.maximum(above - 1, 0)
    down, up = values - grid[below], grid[above] - values  # exact in float32
    take_above = (up < down) | ((up == down) & (above % 2 == 0))
    nearest: Bytes = np.where(take_above, above, below).astype(np.uint8)
    return nearest


def widen_bf16(bits: Bits) -> Floats:
    """The values of BF16 bits."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def bf16_bits(values: Floats) -> Bits:
    """Float32 values rounded to BF16, nearest even; infinities stay, there must be no NaN."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def round_to_bf16(values: Floats) -> Floats:
    """The float32 values of :func:`bf16_bits`."""
    return widen_bf16(bf16_bits(values))


def global_scale(amax: float | np.float32) -> np.float32:
    """The `weight_scale_2` or `input_scale` of modelopt: amax * (1 / 2688) in float32.

    Of zeros it is 1, as it is in compressed-tensors and as both libraries have it for a block of
    zeros. modelopt would store 0, by which engines divide.
    """
    return np.float32(amax) * _RECIPROCAL if amax else np.float32(1)


def divisor(largest: float | np.float32) -> np.float32:
    """The `weight_global_scale` or `input_global_scale` of compressed-tensors: 2688 / amax.

    Torch divides a number by a BF16 tensor as a multiplication with the reciprocal, and rounds
    both to BF16. What overflows becomes 1.
    """
    amax = round_to_bf16(np.array([max(largest, SMALLEST_NORMAL)], dtype=np.float32))
    with np.errstate(over="ignore"):
        reciprocal = round_to_bf16(np.float32(1) / amax)
        scale = round_to_bf16(reciprocal * np.float32(E2M1_MAX * E4M3_MAX))[0]
    return np.float32(scale if np.isfinite(scale) else 1)
