"""How far two tensors are apart, in the units of their format."""

import numpy as np
import pytest

from assay.rebuild import difference
from assay.rebuild.difference import E2M1, GRIDS, Entry
from forge.tensors import small_floats, tensorfile
from forge.tensors.tensorfile import Spec

LINEAR = "model.layers.0.mlp.up_proj"


@pytest.fixture
def stored(tmp_path):
    """Writes a tensor to a file of its own, and gives it as an entry."""
    count = 0

    def store(name, dtype, shape, data):
        nonlocal count
        path = tmp_path / f"{(count := count + 1)}.safetensors"
        spec = Spec(name=name, dtype=dtype, shape=shape)
        path.write_bytes(tensorfile.header_bytes([spec]) + data)
        (tensor,) = tensorfile.read_header(path)
        return Entry(name=name, dtype=dtype, shape=shape, file="one", content=tensor)

    return store


def values(*numbers):
    return np.array(numbers, dtype="<f4").tobytes()


@pytest.mark.parametrize(
    ("name", "dtype", "kind"),
    [
        (f"{LINEAR}.weight", "U8", "packed weight"),
        (f"{LINEAR}.weight_scale", "F8_E4M3", "block scale"),
        (f"{LINEAR}.weight_scale_2", "F32", "global scale"),
        (f"{LINEAR}.input_scale", "F32", "input scale"),
        (f"{LINEAR}.weight_packed", "U8", "packed weight"),
        (f"{LINEAR}.weight_global_scale", "F32", "global divisor"),
        (f"{LINEAR}.input_global_scale", "F32", "input divisor"),
        (f"{LINEAR}.weight", "F8_E4M3", "FP8 weight"),
        (f"{LINEAR}.weight_scale", "BF16", "row scale"),
        (f"{LINEAR}.weight", "BF16", "copied tensor"),
        (f"{LINEAR}.bias", "BF16", "copied tensor"),
    ],
)
def test_kinds(stored, name, dtype, kind):
    assert stored(name, dtype, (0,), b"").kind == kind


def test_codes_are_ordered_as_their_values():
    """Neighbours on the grid are one step apart, across zero too; -0 lies just below +0."""
    everything = bytes(range(256))
    e4m3 = GRIDS["F8_E4M3"].positions(everything)
    finite = np.isfinite(small_floats.E4M3_VALUES)
    by_position = small_floats.E4M3_VALUES[finite][np.argsort(e4m3[finite])]
    assert np.all(np.diff(by_position) >= 0)
    assert sorted(e4m3) == list(range(-128, 128))
    e2m1 = E2M1.positions(bytes(range(16)))[:16]
    assert np.all(np.diff(small_floats.E2M1_VALUES[np.argsort(e2m1)]) >= 0)
    assert sorted(e2m1) == list(range(-8, 8))


@pytest.mark.parametrize(
    ("dtype", "data", "expected"),
    [
        ("F32", (values(1), values(np.nextafter(np.float32(1), 2))), (1, "float32 ulp")),
        ("F32", (values(0.0), values(-0.0)), (1, "float32 ulp")),
        ("BF16", (b"\x80\x3f", b"\x82\x3f"), (2, "bf16 ulp")),
        ("F16", (b"\x00\x3c", b"\xff\x3b"), (1, "float16 ulp")),
        ("F8_E4M3", (b"\x38", b"\xb8"), (113, "E4M3 codes")),
        ("I64", (bytes(8), b"\x05" + bytes(7)), (5, "bytes")),
    ],
)
def test_units_of_copied_tensors(stored, dtype, data, expected):
    found = difference.of_bytes(*(stored("copied", dtype, (1,), one) for one in data))
    assert (found.largest, found.unit) == expected
    assert found.elements == 1


def test_packed_weights_are_counted_in_codes(stored):
    """Both nibbles of one byte: 0 to 2 is two codes, +0.5 to -0.5 three (with both zeros)."""
    name = f"{LINEAR}.weight"
    entries = [stored(name, "U8", (1, 4), data) for data in (b"\0\0\x10\0", b"\0\0\x92\0")]
    found = difference.of_bytes(*entries)
    assert (found.elements, found.total, found.largest) == (2, 8, 3)
    assert found.unit == "E2M1 codes"


def test_relative_difference_of_a_scale(stored):
    entries = [stored(f"{LINEAR}.input_scale", "F32", (), values(x)) for x in (2, 2.5)]
    assert difference.of_bytes(*entries).relative == 0.25


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_no_relative_difference_from_no_number(stored, value):
    """The result stays JSON: no NaN in it."""
    entries = [stored(f"{LINEAR}.input_scale", "F32", (), values(x)) for x in (2, value)]
    assert difference.of_bytes(*entries).relative is None


def test_pieces_do_not_matter(stored, monkeypatch):
    rng = np.random.default_rng(0)
    data = [rng.integers(0, 256, 4096, dtype=np.uint8).tobytes() for _ in range(2)]
    entries = [stored("copied", "BF16", (2048,), part) for part in data]
    whole = difference.of_bytes(*entries)
    monkeypatch.setattr(difference, "CHUNK", 64)
    assert whole == difference.of_bytes(*entries)
    before, after = (np.frombuffer(part, dtype=np.uint16) for part in data)
    assert whole.elements == np.count_nonzero(before != after)


def test_forms_are_compared_before_bytes(stored):
    entries = [stored("x", "U8", (2, 1), b"ab"), stored("x", "BF16", (1,), b"ab")]
    found = difference.of_bytes(*entries)
    assert (found.fault, found.before, found.after) == ("form", "U8 [2, 1]", "BF16 [1]")
    assert found.elements is None
