"""The packing loops against the definition of its formats, and against modelopt itself."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from forge.core.errors import QuantizeError
from forge.tensors import nvfp4, small_floats

ALL_FINITE = np.array(
    [bits for bits in range(1 << 16) if bits & 0x7FFF < 0x7F80], dtype=np.uint16
).reshape(-1, 16)
MAXIMA = [1e-38, 1e-3, 1.0, 2688.0, 3.3895314e38]
weights = hnp.arrays(
    np.uint16,
    st.tuples(st.integers(1, 5), st.integers(1, 4).map(lambda blocks: 16 * blocks)),
    elements=st.integers(0, 0xFFFF).filter(lambda bits: bits & 0x7FFF < 0x7F80),
)


def widen(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def nearest_even(value: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Index of the nearest grid value, ties to the even index: the definition, by brute force."""
    distance = np.abs(value[..., None].astype(np.float64) - grid.astype(np.float64))
    nearest = distance == distance.min(axis=-1, keepdims=True)
    even = nearest & (np.arange(grid.size) % 2 == 0)
    return np.argmax(np.where(even.any(axis=-1, keepdims=True), even, nearest), axis=-1)


def reference(bits: np.ndarray, scale_2: np.float32) -> tuple[np.ndarray, np.ndarray]:
    """NVFP4 in numpy, written from the format's definition and not from the loops."""
    values = widen(bits).reshape(bits.shape[0], -1, 16)
    with np.errstate(under="ignore", over="ignore"):
        scale = np.abs(values).max(axis=-1) / (np.float32(6) * scale_2)
        scale = np.clip(np.where(scale == 0, np.float32(1), scale), 2.0**-9, 448)
        scales = nearest_even(scale, small_floats.E4M3_VALUES[:0x7F]).astype(np.uint8)
        quotient = values / (small_floats.E4M3_VALUES[scales] * scale_2)[..., None]
    # Beyond 6 every value is nearest to 6; brute force would lose infinities.
    codes = nearest_even(np.minimum(np.abs(quotient), 7), small_floats.E2M1_VALUES[:8])
    codes = (codes | np.where(quotient < 0, 8, 0)).astype(np.uint8).reshape(bits.shape)
    return codes[:, 0::2] | codes[:, 1::2] << 4, scales


@given(bits=weights)
def test_pack_agrees_with_the_definition(bits):
    """Codes and block scales are nearest-even roundings of the values, for any finite weight."""
    largest = nvfp4.amax(bits, "w")
    if largest == 0:
        return
    scale_2 = small_floats.global_scale(largest)
    if scale_2 == 0:  # below the smallest float32; the quantize step refuses such a weight
        return
    codes, scales = nvfp4.pack(bits, scale_2)
    expected_codes, expected_scales = reference(bits, scale_2)
    np.testing.assert_array_equal(expected_scales, scales)
    np.testing.assert_array_equal(expected_codes, codes)


@pytest.mark.parametrize("largest", MAXIMA)
def test_every_bf16_value(largest):
    """All 65,280 finite BF16 values, under global scales from tiny to huge."""
    scale_2 = small_floats.global_scale(largest)
    codes, scales = nvfp4.pack(ALL_FINITE, scale_2)
    expected_codes, expected_scales = reference(ALL_FINITE, scale_2)
    np.testing.assert_array_equal(expected_scales, scales)
    np.testing.assert_array_equal(expected_codes, codes)


def test_global_scale_multiplies_with_the_reciprocal():
    """The canon is CUDA's amax * (1/2688); dividing differs by one ulp for some maxima."""
    maxima = widen(np.arange(0x3F80, 0x4000, dtype=np.uint16))
    ours = np.array([small_floats.global_scale(amax) for amax in maxima])
    divided = maxima / np.float32(2688)
    assert np.any(ours != divided)
    np.testing.assert_array_max_ulp(ours, divided, 1)


@pytest.mark.parametrize("bits", [0x7F80, 0xFF80, 0x7FC0])
def test_nan_and_infinity_are_refused(bits):
    weight = np.zeros((2, 16), dtype=np.uint16)
    weight[1, 3] = bits
    with pytest.raises(QuantizeError, match=r"layer\.7: holds a NaN or an infinity"):
        nvfp4.amax(weight, "layer.7")


def test_nan_in_float32_is_refused():
    weight = np.full((1, 16), np.nan, dtype=np.float32)
    with pytest.raises(QuantizeError, match="NaN"):
        nvfp4.amax(weight, "w")


@given(bits=weights)
def test_wider_dtypes_give_the_same_bytes(bits):
    """A weight that BF16 holds exactly packs to the same bytes when it is stored as F32."""
    scale_2 = small_floats.global_scale(1.0)
    for ours, theirs in zip(
        nvfp4.pack(bits, scale_2), nvfp4.pack(widen(bits), scale_2), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


@given(bits=weights)
def test_dequantized_values_are_within_half_a_step(bits):
    """The largest gap between codes is 2 steps, so no value moves by more than a step and
    the rounding of its block scale (1/16)."""
    values = widen(bits).astype(np.float64)
    largest = np.abs(values).max()
    if not 1e-20 < largest < 1e20:
        return
    scale_2 = small_floats.global_scale(largest)
    codes, scales = nvfp4.pack(bits, scale_2)
    moved = np.abs(nvfp4.dequantize(codes, scales, scale_2) - values)
    step = np.repeat(small_floats.E4M3_VALUES[scales] * scale_2, 16, axis=-1)
    assert np.all(moved <= step * (1 + 6 / 16) + 1e-30)


@pytest.mark.libraries
class TestAgainstModelopt:
    """modelopt's own functions on the CPU, given the same global scale."""

    def check(self, bits, scale_2):
        import torch
        from modelopt.torch.quantization.qtensor import NVFP4QTensor

        weight = torch.from_numpy(bits.copy()).view(torch.bfloat16)
        theirs, their_scales, _ = NVFP4QTensor.quantize(weight, 16, None, torch.tensor(scale_2))
        codes, scales = nvfp4.pack(bits, scale_2)
        np.testing.assert_array_equal(their_scales.view(torch.uint8).numpy(), scales)
        np.testing.assert_array_equal(theirs._quantized_data.numpy(), codes)

    @settings(max_examples=2000, deadline=None)
    @given(bits=weights)
    def test_any_weight(self, bits):
        scale_2 = small_floats.global_scale(nvfp4.amax(bits, "w"))
        if scale_2 > 0:
            self.check(bits, scale_2)

    @pytest.mark.parametrize("largest", MAXIMA)
    def test_every_bf16_value(self, largest):
        self.check(ALL_FINITE, small_floats.global_scale(largest))

    def test_awkward_blocks(self):
        """All-zero rows, -0.0, 1e-30 and an outlier, as real weights have them."""
        rng = np.random.default_rng(0)
        bits = (rng.standard_normal((64, 256), dtype=np.float32).view(np.uint32) >> 16).astype(
            np.uint16
        )
        bits[0], bits[1, :16], bits[3, :16] = 0, 0x8000, 0x0D22
        bits[2, 3] = 0x44FA
        self.check(bits, small_floats.global_scale(nvfp4.amax(bits, "w")))

    def test_e4m3_table(self):
        import torch

        theirs = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float().numpy()
        np.testing.assert_array_equal(theirs, small_floats.E4M3_VALUES)
