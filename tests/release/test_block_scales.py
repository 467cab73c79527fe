"""The scales that packing stores are those that a release may have, whatever the weights are."""

import numpy as np
import pytest

from assay.release import block_scales
from forge.core.errors import ReleaseError
from forge.tensors import encodings
from forge.tensors.formats import FORMATS
from forge.tensors.plan import Linear, Place, Plan
from forge.tensors.small_floats import BLOCK, bf16_bits
from forge.tensors.tensorfile import DTYPE_BYTES
from forge.tensors.values import Values

COLUMNS = 8 * BLOCK
NVFP4 = [kind for kind in FORMATS.values() if kind.global_scale]
FP8 = next(kind for kind in FORMATS.values() if kind.global_scale is None)
# The smallest has a global scale that is no subnormal, the largest is nearly all that BF16 has.
SMALLEST, LARGEST = 2.0**-114, 3.3e38


def weights(rng, largest, *, rows=64):
    """Rows of magnitudes far apart, some of zeros, of which one has the largest in all."""
    made = rng.standard_normal((rows, COLUMNS)) * 10.0 ** rng.uniform(-12, 0, (rows, 1))
    made[rng.random(rows) < 0.2] = 0
    made *= largest / np.abs(made).max()
    return bf16_bits(made.astype(np.float32))


def packed(kind, groups):
    """Plan, extremes and global scales of weights that share maxima, stored as a format has them.

    Args:
        kind: the format.
        groups: the weights by module, in groups.
    """
    linears, found, numbers = {}, {}, {}
    for group in groups:
        maximum = max(np.abs(widened(weight)).max() for weight in group.values())
        for module, weight in group.items():
            place = Place(tensor=f"{module}.weight", start=0, shape=weight.shape)
            linears[module] = Linear(module=module, format=kind, place=place)
            _, scales = encodings.pack(kind, weight.copy(), maximum)
            spec = kind.specs(module, weight.shape)[1]
            assert spec.nbytes == scales.nbytes == scales.size * DTYPE_BYTES[spec.dtype]
            values = Values(spec, extremes=True)
            values.update(memoryview(scales.tobytes()))
            found[spec.name] = values.extremes
            if kind.global_scale:
                name = f"{module}.{kind.global_scales[0]}"
                numbers[name] = kind.global_scale(maximum).tobytes()
    plan = Plan(
        groups=tuple(tuple(group) for group in groups), linears=linears, keep=(), mtp=(), removed=()
    )
    return plan, found, numbers


def widened(weight):
    return (weight.astype(np.uint32) << 16).view(np.float32)


@pytest.mark.parametrize("kind", FORMATS.values(), ids=lambda kind: kind.label)
def test_whatever_is_packed_passes(kind):
    rng = np.random.default_rng(1)
    smallest = SMALLEST if kind.global_scale else 2.0**-60
    for largest in np.geomspace(smallest, LARGEST, 40):
        shared = {"a": weights(rng, largest), "b": weights(rng, largest / 1000)}
        block_scales.check(*packed(kind, [shared, {"c": weights(rng, largest)}]))


@pytest.mark.parametrize("kind", FORMATS.values(), ids=lambda kind: kind.label)
def test_zeros_have_the_scale_of_zeros(kind):
    """A linear of its own, and one whose sibling is not zero."""
    zeros = np.zeros((16, COLUMNS), dtype=np.uint16)
    one = weights(np.random.default_rng(1), 1.0)
    plan, found, numbers = packed(kind, [{"a": zeros}, {"b": zeros, "c": one}])
    block_scales.check(plan, found, numbers)
    for module in ("a", "b"):
        block_scales.require_zeros(plan.linears[module], found)
        assert found[f"{module}.weight_scale"] == (kind.scale_bits.zero, kind.scale_bits.zero)
    with pytest.raises(ReleaseError, match=r"c.weight_scale: holds .* the scale of zeros is"):
        block_scales.require_zeros(plan.linears["c"], found)


@pytest.mark.parametrize("kind", NVFP4, ids=lambda kind: kind.label)
def test_scales_that_are_smaller_than_they_can_be(kind):
    plan, found, numbers = packed(kind, [{"a": weights(np.random.default_rng(1), 1.0)}])
    found["a.weight_scale"] = 1, 0x7D
    with pytest.raises(ReleaseError, match=r"a.weight_scale: its largest scale is 416.0; of the 1"):
        block_scales.check(plan, found, numbers)
    found["a.weight_scale"] = kind.scale_bits.zero, kind.scale_bits.zero
    with pytest.raises(ReleaseError, match="its largest scale is (1.0|0.125);"):
        block_scales.check(plan, found, numbers)
    numbers[f"a.{kind.global_scales[0]}"] = np.float32(1).tobytes()
    block_scales.check(plan, found, numbers)


@pytest.mark.parametrize(
    ("bits", "value"),
    [
        ((0x007F, 0x4000), "holds 1.16"),  # a subnormal
        ((0x0000, 0x4000), "holds 0.0,"),
        ((0x4000, 0xC000), "holds -2.0,"),
        ((0x4000, 0x7F00), "holds 1.7"),  # more than the largest weight / 448
    ],
)
def test_scales_of_rows(bits, value):
    plan, found, numbers = packed(FP8, [{"a": weights(np.random.default_rng(1), 1.0)}])
    found["a.weight_scale"] = bits
    with pytest.raises(ReleaseError, match=f"a.weight_scale: {value}.*scales of float-quantized"):
        block_scales.check(plan, found, numbers)
