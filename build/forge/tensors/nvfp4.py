"""NVFP4 arithmetic, bit for bit as NVIDIA ModelOpt computes it on CUDA.

A linear's weight becomes four tensors: `weight` (two E2M1 codes a byte, the even column in the
low nibble), `weight_scale` (E4M3, one a block of 16 columns), `weight_scale_2` and `input_scale`
(float32 scalars). Source: modelopt 0.47.0, `modelopt/torch/quantization/qtensor/nvfp4_tensor.py`.

The arithmetic is IEEE float32 and is done once a global scale, in numpy, into tables: a 16-bit
weight has 2**15 magnitudes, so the scale of a block is a look-up by its largest magnitude, and
a code is the number of thresholds that a magnitude has reached. What is compiled
(:mod:`forge.tensors.loops`) compares integers only, so no compiler can give other bytes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from forge.core.errors import QuantizeError
from forge.tensors.small_floats import (
    BLOCK,
    E2M1_MAX,
    E2M1_VALUES,
    E4M3_MAX,
    E4M3_VALUES,
    Bits,
    Bytes,
    Floats,
    nearest_e4m3,
    widen_bf16,
)

# [rows, columns] of float16, float32, or uint16 that are the bits of BF16.
Weight = npt.NDArray[Any]

# A code is the number of these that |w / step| has reached: the midpoints between E2M1 values,
# where a tie goes to the even code. The last one tells when the sign bit is set: what underflows
# to -0.0 is stored as +0.
_MIDPOINTS = np.array([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 0.0], dtype=np.float32)
_TIE_STAYS_BELOW = np.array([True, False, True, False, True, False, True, True])

_NUMPY_DTYPES = {"BF16": np.uint16, "F16": np.float16, "F32": np.float32}


def as_weight(data: bytes | memoryview, dtype: str, shape: tuple[int, ...]) -> Weight:
    """A weight's bytes as an array [rows, columns]; BF16 as the uint16 of its bits."""
    return np.frombuffer(data, dtype=_NUMPY_DTYPES[dtype]).reshape(shape)


def amax(weight: Weight, name: str) -> np.float32:
    """The largest magnitude of a weight, exact.

    Raises:
        QuantizeError: the weight holds a NaN or an infinity.
    """
    if weight.dtype == np.uint16:
        from forge.tensors import loops  # the host, which packs nothing, has no numba

        # The bits of magnitudes sort as the magnitudes do, infinity and NaN above all.
        largest = loops.largest_magnitude(weight.reshape(-1))
        value = np.float32(widen_bf16(np.array([largest]))[0])
    else:
        value = np.float32(np.max(np.abs(weight)))
    if not np.isfinite(value):
        raise QuantizeError(f"{name}: holds a NaN or an infinity; the base is damaged.")
    return value


@dataclass(frozen=True, kw_only=True)
class Arithmetic:
    """How a library's global scale enters; the rest of NVFP4 is the same in all of them.

    `block_scales` gives the E4M3 bits of the scales of blocks with these largest magnitudes, and
    `steps` what a weight is divided by to get its code, by the bits of its block scale [127].
    """

    block_scales: Callable[[Floats, np.float32], Bytes]
    steps: Callable[[np.float32], Floats]


def _block_scales(largest: Floats, scale_2: np.float32) -> Bytes:
    """modelopt's: e4m3(amax / (6 scale_2)), zero replaced by 1, clamped to what E4M3 holds."""
    with np.errstate(over="ignore", invalid="ignore"):
        scale = largest / (np.float32(E2M1_MAX) * scale_2)
    scale[scale == 0] = 1
    return nearest_e4m3(np.clip(scale, np.float32(2.0**-9), np.float32(E4M3_MAX)))


def _steps(scale_2: np.float32) -> Floats:
    return E4M3_VALUES[:0x7F] * scale_2


MODELOPT = Arithmetic(block_scales=_block_scales, steps=_steps)


def pack(
    weight: Weight,
    scale: np.float32,
    codes: Bytes | None = None,
    arithmetic: Arithmetic = MODELOPT,
) -> tuple[Bytes, Bytes]:
    """Packs a finite weight [rows, columns] under its global scale, which is not zero.

    Args:
        weight: as :func:`as_weight` gives it.
        scale: the global scale.
        codes: where the codes go; the front of the weight's own memory will do.
        arithmetic: how the global scale enters.

    Returns:
        The codes [rows, columns / 2] and the E4M3 bits of the block scales [rows, columns / 16].
    """
    rows, columns = weight.shape
    if codes is None:
        codes = np.empty((rows, columns // 2), dtype=np.uint8)
    if weight.dtype == np.float32:
        codes[:], scales = _pack_float32(weight, scale, arithmetic)
        return codes, scales
    widen = widen_bf16 if weight.dtype == np.uint16 else _widen_f16
    from forge.tensors import loops

    scale_of, thresholds = _tables(scale, widen, arithmetic)
    scales = np.empty((rows, columns // BLOCK), dtype=np.uint8)
    loops.pack_16_bit(weight.view(np.int16), scale_of, thresholds, codes, scales)
    return codes, scales


def dequantize(codes: Bytes, scales: Bytes, scale_2: np.float32) -> Floats:
    """The values [rows, columns] that codes and scales stand for."""
    from forge.tensors import loops

    values = np.empty((codes.shape[0], codes.shape[1] * 2), dtype=np.float32)
    loops.unpack(codes, E2M1_VALUES, E4M3_VALUES[scales] * np.float32(scale_2), values)
    return values


def _widen_f16(bits: Bits) -> Floats:
    return bits.view(np.float16).astype(np.float32)


def _reached(quotient: Floats) -> npt.NDArray[np.bool_]:
    """Which of the midpoints |quotient| has reached, in a new last axis."""
    magnitude = np.abs(quotient)[..., None]
    return np.where(_TIE_STAYS_BELOW, magnitude > _MIDPOINTS, magnitude >= _MIDPOINTS)


# The maxima of BF16 weights repeat: a model's experts have a few hundred between them.
@lru_cache(maxsize=512)
def _tables(
    scale: np.float32,
    widen: Callable[[Bits], Floats],
    arithmetic: Arithmetic,
) -> tuple[Bytes, npt.NDArray[np.int16]]:
    """What the loops need to know about a global scale, for weights of 16 bits.

    Returns:
        The block scale by the bits of the block's largest magnitude [2**15], and the smallest
        magnitude bits that reach each midpoint, by block scale [127, 8]. Rounded division is
        monotonic, so bisection over the bits finds them.
    """
    magnitudes = np.arange(1 << 15, dtype=np.uint16)
    # What is not finite has no scale; amax() has refused it. Some processors warn of it.
    with np.errstate(invalid="ignore"):
        finite = np.nan_to_num(widen(magnitudes), nan=0.0, posinf=0.0)
    steps = arithmetic.steps(scale)[:, None]
    low = np.zeros((0x7F, len(_MIDPOINTS)), dtype=np.int32)
    high = np.full_like(low, 0x7FFF)
    columns = np.arange(len(_MIDPOINTS))
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        while np.any(low < high):
            middle = (low + high) // 2
            reached = _reached(widen(middle.astype(np.uint16)) / steps)[:, columns, columns]
            high = np.where(reached, middle, high)
            low = np.where(reached, low, np.minimum(middle + 1, high))
    return arithmetic.block_scales(finite, scale), high.astype(np.int16)


def _pack_float32(weight: Floats, scale: np.float32, arithmetic: Arithmetic) -> tuple[Bytes, Bytes]:
    """The definition itself, for the rare base that is not stored in 16 bits."""
    blocks = weight.reshape(weight.shape[0], -1, BLOCK)
    scales = arithmetic.block_scales(np.abs(blocks).max(axis=-1), scale)
    with np.errstate(over="ignore"):
        quotient = blocks / arithmetic.steps(scale)[scales][..., None]
    reached = _reached(quotient)
    sign = reached[..., -1] & (quotient < 0)
    nibbles = reached[..., :-1].sum(axis=-1, dtype=np.uint8) | sign.astype(np.uint8) << 3
    nibbles = nibbles.reshape(weight.shape)
    return nibbles[:, 0::2] | nibbles[:, 1::2] << 4, scales
