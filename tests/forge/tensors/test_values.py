"""Every value of an input is looked at while it arrives; a NaN is told with its index."""

import numpy as np
import pytest
from conftest import Arrays, bf16, write_checkpoint

from forge.core.errors import BaseError
from forge.core.files import sha256_of
from forge.tensors.tensor_list import Arriving
from forge.tensors.tensorfile import Spec
from forge.tensors.values import Values

DTYPES = {
    "BF16": ("u2", 0x7F80, 0x7F81), "F16": ("u2", 0x7C00, 0x7C01),
    "F32": ("u4", 0x7F80_0000, 0x7FC0_0000),
    "F64": ("u8", 0x7FF0_0000_0000_0000, 0x7FF8_0000_0000_0000),
    "F8_E5M2": ("u1", 0x7C, 0x7D), "F8_E4M3": ("u1", None, 0x7F),
}  # fmt: skip
SHAPE = (300, 7, 40)


def look(dtype, bits, size=1 << 30):
    values = Values(Spec(name="x", dtype=dtype, shape=bits.shape))
    data = memoryview(bits.tobytes())
    for start in range(0, len(data), size):
        values.update(data[start : start + size])
    return values.fault


def finite(dtype):
    """Random values of all finite magnitudes and both signs, the largest among them."""
    kind, infinity, nan = DTYPES[dtype]
    width = np.dtype(kind).itemsize
    rng = np.random.default_rng(1)
    end = infinity or nan
    bits = rng.integers(0, end, SHAPE, dtype=kind)
    bits[0, 0, :2] = 0, end - 1
    return bits | rng.integers(0, 2, SHAPE, dtype=kind) << np.array(8 * width - 1, dtype=kind)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1 << 30, 1001])
def test_finite_values_pass(dtype, size):
    assert look(dtype, finite(dtype), size) is None


@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize("size", [1 << 30, 1001, 3])
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_no_number_is_found(dtype, size, negative):
    """The first of several, wherever the bytes are cut."""
    kind, infinity, nan = DTYPES[dtype]
    sign = int(negative) << 8 * np.dtype(kind).itemsize - 1
    for value, said in ((infinity, "-infinity" if negative else "infinity"), (nan, "NaN")):
        if value is None:
            continue
        bits = finite(dtype)[:30]
        bits[12, 5, 33] = sign | value
        bits[29, 6, 39] = nan
        assert look(dtype, bits, size) == f"holds {said} at [12, 5, 33]"


def test_integers_and_scalars():
    assert look("I64", np.full((2,), -1, dtype="i8")) is None
    assert look("BF16", np.array(0x7FC0, dtype="u2")) == "holds NaN at []"


def arrive(folder, arrays: Arrays):
    (file,) = write_checkpoint(folder, arrays, shards=1).glob("*.safetensors")
    arriving = Arriving(file, file.stat().st_size)
    sha256_of(file, arriving.update)
    return file, arriving


@pytest.mark.parametrize("name", ["model.norm.weight", "model.visual.pos_embed.weight", "mtp.fc.x"])
def test_an_arriving_file_with_a_nan_is_told_by_tensor(tmp_path, name):
    """Of any tensor, copied ones too."""
    arrays = {"a.weight": bf16(np.random.default_rng(0), 8, 16), name: np.zeros(7, dtype="u2")}
    arrays[name][4] = 0xFFC0
    file, arriving = arrive(tmp_path, arrays)
    with pytest.raises(BaseError) as told:
        arriving.lines()
    assert str(told.value).startswith(f"{file}: the tensor {name!r} holds NaN at [4]. ")


def test_norms_of_zeros_are_legal(tmp_path):
    """This family's are 1 + w."""
    _, arriving = arrive(tmp_path, {"model.norm.weight": np.zeros(8, dtype="u2")})
    assert [line.name for line in arriving.lines()] == ["model.norm.weight"]


@pytest.mark.parametrize("size", [1 << 30, 1001, 3])
@pytest.mark.parametrize("dtype", ["F8_E4M3", "BF16"])
def test_smallest_and_largest_bits(dtype, size):
    """Read as unsigned numbers, so that whatever is negative is larger than all that is not."""
    bits = finite(dtype)
    values = Values(Spec(name="x", dtype=dtype, shape=bits.shape), extremes=True)
    data = memoryview(bits.tobytes())
    for start in range(0, len(data), size):
        values.update(data[start : start + size])
    assert values.extremes == (bits.min(), bits.max())
