"""The compiled loops. They are called without the interpreter lock, so that two run at once.

Packing compares integers and looks up, so that every compiler gives the same bytes on every
processor; what computes with floats does so in the order in which it is written, without fast-math.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Compiles a loop on its first call, and keeps that where the checkout or HOME is writable."""

    def decorate(loop: Callable[..., Any]) -> Any:
        try:
            return _mending(njit(cache=True, nogil=True, **options)(loop))
        except RuntimeError:  # numba finds no place; each process compiles for itself then
            return njit(nogil=True, **options)(loop)

    return decorate


def _mending(loop: Any) -> Any:
    """Has numba empty what it kept of a loop, and compile it again, where that cannot be read.

    It unpickles files that a failing disk may have cut, and would fail in every process from then
    on.
    """
    kept = loop._cache
    load = kept.load_overload

    def load_or_empty(*given: Any) -> Any:
        try:
            return load(*given)
        except OSError:
            raise
        except Exception:  # unpickling raises whatever the bytes lead to
            kept.flush()
            return None

    kept.load_overload = load_or_empty
    return loop


@compiled()
def largest_magnitude(bits: npt.NDArray[np.uint16]) -> np.uint16:
    """The bits of the largest magnitude among floats of 16 bits [n]; NaN is above all."""
    largest = np.uint16(0)
    for i in range(bits.size):
        largest = max(largest, bits[i] & np.uint16(0x7FFF))
    return largest


# Numba widens every integer operation to 64 bits; the casts back to 16 are what lets LLVM put 16
# weights into one vector register.


@compiled(inline="always")
def _scale_row(row: npt.NDArray[np.int16], scale_of: Bytes, scales: Bytes) -> None:
    """The block scales of a row, by each block's largest magnitude, found by halving."""
    half = np.empty(8, dtype=np.int16)
    for block in range(scales.size):
        bits = row[block * 16 : block * 16 + 16]
        for i in range(8):
            a, b = np.int16(bits[i] & 0x7FFF), np.int16(bits[i + 8] & 0x7FFF)
            half[i] = a if a > b else b
        for i in range(4):
            a, b = half[i], half[i + 4]
            half[i] = a if a > b else b
        scales[block] = scale_of[max(half[0], half[1], half[2], half[3])]


@compiled(inline="always")
def _code_row(
    row: npt.NDArray[np.int16],
    thresholds: npt.NDArray[np.int16],
    scales: Bytes,
    nibbles: npt.NDArray[np.uint16],
) -> None:
    """The code of each weight of a row: the thresholds that it has reached, and its sign."""
    for block in range(scales.size):
        bits = row[block * 16 : block * 16 + 16]
        out = nibbles[block * 16 : block * 16 + 16]
        t = thresholds[scales[block]]
        t0, t1, t2, t3, t4, t5, t6, nonzero = t[0], t[1], t[2], t[3], t[4], t[5], t[6], t[7]
        for i in range(16):
            m = np.int16(bits[i] & 0x7FFF)
            code = np.uint16(m >= t0) + np.uint16(m >= t1) + np.uint16(m >= t2)
            code += np.uint16(m >= t3) + np.uint16(m >= t4) + np.uint16(m >= t5)
            code += np.uint16(m >= t6)
            negative = np.uint16((bits[i] < 0) & (m >= nonzero))
            out[i] = np.uint16(code | (negative << np.uint16(3)))


@compiled()
def pack_16_bit(
    bits: npt.NDArray[np.int16],
    scale_of: Bytes,
    thresholds: npt.NDArray[np.int16],
    codes: Bytes,
    scales: Bytes,
) -> None:
    """Packs floats of 16 bits [rows, columns].

    Args:
        bits: their bits.
        scale_of: the E4M3 bits of a block's scale, by the bits of its largest magnitude [2**15].
        thresholds: the magnitude bits from which on each midpoint is reached, and the sign kept,
            by block scale [127, 8].
        codes: where the codes go [rows, columns / 2].
        scales: where the block scales go [rows, columns / 16].
    """
    # Of each row all is read before any is written, so the codes may take the weights' place.
    nibbles = np.empty(bits.shape[1], dtype=np.uint16)
    pairs = nibbles.view(np.uint32)
    for r in range(bits.shape[0]):
        _scale_row(bits[r], scale_of, scales[r])
        _code_row(bits[r], thresholds, scales[r], nibbles)
        row = codes[r]
        for j in range(row.size):
            row[j] = np.uint8(pairs[j] | (pairs[j] >> np.uint32(12)))


@compiled()
def unpack(codes: Bytes, values: Floats, steps: Floats, out: Floats) -> None:
    """Writes the products of values [16] by code and steps [rows, columns / 16] to out.

    The codes [rows, columns / 2] are two a byte, the even column in the low nibble.
    """
    for r in range(codes.shape[0]):
        row = out[r]
        for block in range(steps.shape[1]):
            step = steps[r, block]
            for j in range(block * 8, block * 8 + 8):
                row[2 * j] = values[codes[r, j] & 0xF] * step
                row[2 * j + 1] = values[codes[r, j] >> 4] * step


@compiled()
def squares(values: Floats, factor: float, exact: Floats) -> tuple[float, float]:
    """|factor values - exact|^2 and |exact|^2 of matrices of one shape."""
    error = norm = 0.0
    for r in range(exact.shape[0]):
        for c in range(exact.shape[1]):
            weight = np.float64(exact[r, c])
            moved = np.float64(values[r, c]) * factor - weight
            error += moved * moved
            norm += weight * weight
    return error, norm
