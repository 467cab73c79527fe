"""compressed-tensors' arithmetic, bit for bit: NVFP4 with divisors, FP8 with one scale a row.

It computes in the dtype of the weights and rounds in between, so only BF16 is implemented here.
Source: compressed-tensors 0.19.0, `quantization/utils/helpers.py` (generate_gparam,
calculate_qparams) and `quantization/lifecycle/forward_helpers.py` (_quantize).
"""

import numpy as np

from forge.tensors.nvfp4 import Arithmetic
from forge.tensors.small_floats import (
    E2M1_MAX,
    E4M3_MAX,
    E4M3_VALUES,
    Bits,
    Bytes,
    Floats,
    bf16_bits,
    nearest_e4m3,
    round_to_bf16,
    widen_bf16,
)

# What replaces a scale of zero: the spacing at 1 of E4M3 (0.125) and of BF16 (2**-7).
_ZERO_BLOCK = nearest_e4m3(np.array([0.125], dtype=np.float32))[0]
_ZERO_ROW = np.float32(2.0**-7)
_MAGNITUDES = np.arange(1 << 15, dtype=np.uint16)
# The nearest E4M3 code of every BF16 magnitude, what is larger than 448 clamped to it. A NaN never
# gets here, and processors differ in what is smaller than one.
_E4M3_OF_BF16 = nearest_e4m3(
    np.minimum(np.nan_to_num(widen_bf16(_MAGNITUDES)), np.float32(E4M3_MAX))
)
# Elements that are worked on at a time, so that a weight of any size takes little memory.
_CHUNK = 1 << 20


def _block_scales(largest: Floats, global_scale: np.float32) -> Bytes:
    """e4m3(bf16(amax / 6) * global scale), where what rounds to zero becomes 0.125."""
    with np.errstate(over="ignore"):
        scaled = round_to_bf16(largest / np.float32(E2M1_MAX)) * global_scale
    bits = nearest_e4m3(np.minimum(scaled, np.float32(E4M3_MAX)))
    bits[bits == 0] = _ZERO_BLOCK
    return bits


def _steps(global_scale: np.float32) -> Floats:
    return E4M3_VALUES[:0x7F] / global_scale


ARITHMETIC = Arithmetic(block_scales=_block_scales, steps=_steps)


def pack_fp8(weight: Bits, codes: Bytes | None = None) -> tuple[Bytes, Bits]:
    """FP8 of a finite BF16 weight [rows, columns], each row under a scale of its own.

    The quotient of weight and scale is rounded to BF16 before it is rounded to E4M3, as torch
    does; the library's Triton kernel, on GPUs with FP8, leaves that rounding out.

    Args:
        weight: the BF16 bits.
        codes: where the codes go; the front of the weight's own memory will do.

    Returns:
        The E4M3 bits [rows, columns], and the BF16 bits of the scales, amax / 448 [rows, 1].
    """
    largest = (weight & 0x7FFF).max(axis=1, keepdims=True)
    scales = round_to_bf16(widen_bf16(largest) / np.float32(E4M3_MAX))
    scales[scales == 0] = _ZERO_ROW
    if codes is None:
        codes = np.empty(weight.shape, dtype=np.uint8)
    step = max(1, _CHUNK // weight.shape[1])
    for start in range(0, len(weight), step):
        rows = slice(start, start + step)
        quotient = bf16_bits(widen_bf16(weight[rows]) / scales[rows])
        magnitude = quotient & 0x7FFF
        # What underflows to -0 is stored as +0: the library adds a zero point of +0.
        negative = (quotient > 0x8000).astype(np.uint8) << 7
        codes[rows] = _E4M3_OF_BF16[magnitude] | negative
    return codes, bf16_bits(scales)
