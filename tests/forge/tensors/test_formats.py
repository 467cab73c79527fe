"""Each format stores what its library stores: names, dtypes, shapes, and every byte."""

import numpy as np
import pytest
from conftest import MIXED
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from forge.core.errors import QuantizeError
from forge.recipes import recipe
from forge.tensors import compressed_tensors, encodings, formats, nvfp4, small_floats

COMPRESSED = formats.find("compressed-tensors", "nvfp4")
FP8 = formats.find("compressed-tensors", "fp8")
LIMITS = recipe.find(MIXED).gates.max_error
FINITE = st.integers(0, 0xFFFF).filter(lambda bits: bits & 0x7FFF < 0x7F80)
WEIGHTS = hnp.arrays(
    np.uint16,
    st.tuples(st.integers(1, 6), st.integers(1, 6).map(lambda blocks: 16 * blocks)),
    elements=FINITE,
)
ALL_FINITE = np.array(
    [bits for bits in range(1 << 16) if bits & 0x7FFF < 0x7F80], dtype=np.uint16
).reshape(-1, 16)
# BF16 bits of largest magnitudes: subnormal, normal of every kind, the largest.
LARGEST = [0x0001, 0x007F, 0x0080, 0x0700, 0x3A12, 0x3F80, 0x3FC1, 0x4128, 0x7F00, 0x7F7F]


def awkward():
    """Zero blocks and rows, -0.0, 1e-30 beside an outlier, subnormals, ties."""
    rng = np.random.default_rng(3)
    weight = (rng.standard_normal((12, 64), dtype=np.float32).view(np.uint32) >> 16).astype(
        np.uint16
    )
    weight[0], weight[1], weight[2, :16] = 0, 0x8000, 0x8000
    weight[3, :16] = small_floats.bf16_bits(np.full(16, 1e-30, dtype=np.float32))
    weight[4, 5] = small_floats.bf16_bits(np.float32([-50]))[0]
    weight[5] = rng.integers(0, 0x7F, 64) | rng.integers(0, 2, 64) << 15
    weight[6, :32:2], weight[6, 1:32:2] = 0x3F00, 0xBF00
    weight[7, 16:32] = 0x8001
    return weight


@pytest.mark.parametrize(
    ("kind", "dtype", "shape", "message"),
    [
        (COMPRESSED, "F32", (2, 16), "dtype F32"),
        (COMPRESSED, "BF16", (2, 24), "multiple of 16"),
        (COMPRESSED, "BF16", (16,), "matrix"),
        (FP8, "F16", (2, 16), "dtype F16"),
        (FP8, "BF16", (2, 3, 16), "matrix"),
        (FP8, "BF16", (0, 16), "matrix"),
        (formats.find("modelopt", "nvfp4"), "I32", (2, 16), "dtype I32"),
        (formats.find("modelopt", "nvfp4"), "BF16", (2, 24), "multiple of 16"),
    ],
)
def test_unfit_weights_are_refused(kind, dtype, shape, message):
    with pytest.raises(QuantizeError, match=message):
        kind.check("w", dtype, shape)


@pytest.mark.parametrize("kind", formats.FORMATS.values(), ids=lambda kind: kind.label)
def test_parts_are_the_bytes_of_the_specs(kind):
    """Every part has the size that its spec declares."""
    weight = awkward()
    specs = kind.specs("a", weight.shape)
    maximum = nvfp4.amax(weight, "a")
    parts = [
        *encodings.pack(kind, weight, maximum),
        *kind.scalars("a", maximum, {"a": np.float32(3)}),
    ]
    assert [spec.nbytes for spec in specs] == [memoryview(part).nbytes for part in parts]


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [(kind, dtype) for kind in formats.FORMATS.values() for dtype in kind.dtypes],
    ids=lambda value: getattr(value, "label", value),
)
def test_rows_pack_alone_and_in_their_own_memory(kind, dtype):
    """As the quantizer packs: some rows at a time, the codes in the place of the weights."""
    weight = awkward()
    if dtype != "BF16":
        weight = small_floats.widen_bf16(weight).astype(
            {"F16": np.float16, "F32": np.float32}[dtype]
        )
    maximum = nvfp4.amax(weight, "a")
    whole = encodings.pack(kind, weight, maximum)
    parts = []
    for start in range(0, len(weight), 5):
        rows = weight[start : start + 5].copy()
        shape = kind.specs("a", rows.shape)[0].shape
        room = rows.reshape(-1).view(np.uint8)[: np.prod(shape)].reshape(shape)
        codes, scales = encodings.pack(kind, rows, maximum, room)
        assert np.shares_memory(codes, rows)
        parts.append((codes, scales))
    for expected, pieces in zip(whole, zip(*parts, strict=True), strict=True):
        np.testing.assert_array_equal(expected, np.concatenate(pieces))


# A block that rounding hurts most: its largest at six steps, the others between four and six.
WORST = np.full((4, 64), 5, dtype=np.float32)
WORST[:, ::16] = 6 * np.linspace(0.9, 1.1, 16, dtype=np.float32).reshape(4, 4)


@pytest.mark.parametrize("kind", formats.FORMATS.values(), ids=lambda kind: kind.label)
@given(
    values=hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 4), st.just(64)),
        elements=st.floats(2**-6, 1, width=32) | st.floats(-1, -(2**-6), width=32),
    )
)
@example(values=WORST)
@example(values=np.sqrt(np.float32(2)) * WORST)
def test_rounding_stays_below_its_bound(kind, values):
    """What the assay allows is what rounding can do to blocks that are not far from each other."""
    bits = small_floats.bf16_bits(values)
    weight = bits if "F32" not in kind.dtypes else values
    maximum = nvfp4.amax(weight, "a")
    codes, scales = encodings.pack(kind, weight, maximum)
    exact = small_floats.widen_bf16(bits) if weight is bits else values
    if kind is FP8:
        stored = small_floats.E4M3_VALUES[codes] * small_floats.widen_bf16(scales)
    else:
        scale = kind.global_scale(maximum)
        stored = nvfp4.dequantize(codes, scales, 1 / scale if kind is COMPRESSED else scale)
    limit = LIMITS[kind.name]
    assert np.linalg.norm(stored - exact) <= limit * np.linalg.norm(exact)


@pytest.mark.parametrize("fault", [0x7F80, 0x7FC0, 0xFF80])
def test_nan_and_infinity_name_the_linear(fault):
    weight = awkward()
    weight[3, 3] = fault
    with pytest.raises(QuantizeError, match=r"experts\.7\.up_proj: holds a NaN or an infinity"):
        nvfp4.amax(weight, "experts.7.up_proj")


def test_divisor_of_the_largest_magnitude():
    """In BF16, reciprocal and product both rounded: 29056, where float32 has 29127.1."""
    amax = small_floats.bf16_bits(np.float32([2688 / 29127.1]))
    assert np.float32(29056) == small_floats.divisor(small_floats.widen_bf16(amax)[0])


@pytest.mark.libraries
class TestAgainstCompressedTensors:
    """Its own functions, as llm-compressor's observers and compressors call them, on a CPU."""

    def scheme(self, preset):
        from compressed_tensors.quantization import preset_name_to_scheme

        return preset_name_to_scheme(preset, ["Linear"])

    def compress(self, preset, bits, maximum=None):
        """The state dict that llm-compressor stores of a weight under a maximum."""
        import torch
        from compressed_tensors.compressors import BaseCompressor
        from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam
        from llmcompressor.observers.helpers import flatten_for_calibration

        scheme = self.scheme(preset)
        weight = torch.from_numpy(bits.copy()).view(torch.bfloat16)
        seen = flatten_for_calibration(weight, "weight", scheme.weights)
        low, high = torch.amin(seen, dim=(0, -1)), torch.amax(seen, dim=(0, -1))
        state = {"weight": weight}
        if maximum is not None:
            amax = torch.tensor([maximum]).bfloat16()
            state["weight_global_scale"] = generate_gparam(-amax, amax)
        scale, zero_point = calculate_qparams(
            low, high, scheme.weights, state.get("weight_global_scale")
        )
        state |= {"weight_scale": scale, "weight_zero_point": zero_point}
        kind = "nvfp4-pack-quantized" if preset == "NVFP4" else "float-quantized"
        return BaseCompressor.get_value_from_registry(kind).compress(state, scheme)

    def check_nvfp4(self, bits, maximum):
        import torch

        theirs = self.compress("NVFP4", bits, maximum)
        scale = small_floats.divisor(maximum)
        codes, scales = nvfp4.pack(bits, scale, arithmetic=compressed_tensors.ARITHMETIC)
        assert scale == theirs["weight_global_scale"].item()
        their_scales = theirs["weight_scale"].view(torch.uint8).numpy()
        np.testing.assert_array_equal(their_scales, scales)
        np.testing.assert_array_equal(theirs["weight_packed"].numpy(), codes)

    def check_fp8(self, bits):
        import torch

        theirs = self.compress("FP8_DYNAMIC", bits)
        codes, scales = compressed_tensors.pack_fp8(bits)
        np.testing.assert_array_equal(theirs["weight_scale"].view(torch.uint16).numpy(), scales)
        np.testing.assert_array_equal(theirs["weight"].view(torch.uint8).numpy(), codes)

    @given(bits=WEIGHTS)
    @example(bits=awkward())
    def test_nvfp4(self, bits):
        maximum = nvfp4.amax(bits, "w")
        if maximum:
            self.check_nvfp4(bits, maximum)

    @pytest.mark.parametrize("largest", LARGEST)
    def test_nvfp4_of_every_finite_value(self, largest):
        """Under a maximum of each kind, whether or not the values keep to it."""
        self.check_nvfp4(
            ALL_FINITE, small_floats.widen_bf16(np.array([largest], dtype=np.uint16))[0]
        )

    def test_nvfp4_of_thousands_of_blocks(self):
        rng = np.random.default_rng(5)
        for spread in (1e-3, 1.0, 30.0):
            values = rng.standard_normal((512, 256), dtype=np.float32)
            values *= np.exp(np.clip(spread * rng.standard_normal((512, 16)), -80, 80)).repeat(
                16, 1
            )
            bits = small_floats.bf16_bits(values.astype(np.float32))
            self.check_nvfp4(bits, nvfp4.amax(bits, "w"))

    @given(bits=WEIGHTS)
    @example(bits=awkward())
    def test_fp8(self, bits):
        self.check_fp8(bits)

    @pytest.mark.parametrize("largest", LARGEST)
    def test_fp8_of_every_finite_value(self, largest):
        """All magnitudes up to the row's largest, of either sign, with each kind of largest."""
        row = np.arange(largest + 1, dtype=np.uint16)
        self.check_fp8(np.stack([row, row | 0x8000]))

    @given(values=hnp.arrays(np.float32, 8, elements=st.floats(width=32, allow_nan=False)))
    def test_bf16_bits(self, values):
        import torch

        theirs = torch.from_numpy(values.copy()).bfloat16().view(torch.uint16).numpy()
        np.testing.assert_array_equal(theirs, small_floats.bf16_bits(values))

    def test_divisor_of_every_magnitude(self):
        import torch
        from compressed_tensors.quantization.utils import generate_gparam

        bits = np.arange(0x7F80, dtype=np.uint16)
        values = torch.from_numpy(bits.copy()).view(torch.bfloat16)
        theirs = [generate_gparam(-v, v).item() for v in values.reshape(-1, 1)[::7]]
        ours = [small_floats.divisor(value) for value in small_floats.widen_bf16(bits)[::7]]
        assert theirs == ours
