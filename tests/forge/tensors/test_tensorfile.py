"""The strict reader refuses every file that breaks the format; the library reads ours."""

import json

import numpy as np
import pytest
from conftest import write_checkpoint
from hypothesis import given
from hypothesis import strategies as st

from forge.core.errors import TensorFileError
from forge.tensors import tensorfile
from forge.tensors.tensorfile import Spec

names = st.text(min_size=1, max_size=20).filter(lambda name: name != "__metadata__")
shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)
dtypes = st.sampled_from(sorted(tensorfile.DTYPE_BYTES))


def raw(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(begin: int, end: int, dtype: str = "U8", shape: list[int] | None = None) -> dict:
    return {
        "dtype": dtype,
        "shape": [end - begin] if shape is None else shape,
        "data_offsets": [begin, end],
    }


@given(st.dictionaries(names, st.tuples(dtypes, shapes), max_size=8))
def test_what_is_written_is_read_back(tmp_path_factory, tensors):
    """Any names, dtypes and shapes survive, and the data begins at a multiple of 8 bytes."""
    specs = [Spec(name=name, dtype=d, shape=s) for name, (d, s) in tensors.items()]
    path = tmp_path_factory.mktemp("t") / "a.safetensors"
    header = tensorfile.header_bytes(specs)
    path.write_bytes(header + bytes(sum(spec.nbytes for spec in specs)))
    found = {t.name: (t.dtype, t.shape) for t in tensorfile.read_header(path)}
    assert len(header) % 8 == 0
    assert tensors == found


@pytest.mark.libraries
def test_the_library_reads_ours(tmp_path):
    from safetensors import safe_open

    path = tmp_path / "a.safetensors"
    value = np.arange(6, dtype=np.float32).reshape(2, 3)
    path.write_bytes(
        tensorfile.header_bytes([Spec(name="a", dtype="F32", shape=(2, 3))]) + value.tobytes()
    )
    with safe_open(path, framework="np") as file:
        np.testing.assert_array_equal(value, file.get_tensor("a"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "truncated"),
        (b"\x01\x00", "truncated"),
        ((1 << 40).to_bytes(8, "little") + b"{}", "the header claims"),
        (raw(b"{nonsense"), "not valid JSON"),
        (raw(b"[]"), "no JSON object"),
        (raw(b'{"a":1,"a":2}'), "stands twice"),
        (raw({"a": {"dtype": "U8"}}), "needs dtype, shape"),
        (raw({"a": entry(0, 4, "F7")}, bytes(4)), "unknown dtype"),
        (raw({"a": entry(0, 4, "F32", [2])}, bytes(4)), "needs 8 bytes"),
        (raw({"a": entry(0, 4, "U8", [-4])}, bytes(4)), "no size"),
        (raw({"a": entry(0, 4, "U8", [True])}, bytes(4)), "no size"),
        (raw({"a": entry(0, 4), "b": entry(2, 6)}, bytes(6)), "overlap or leave a gap"),
        (raw({"a": entry(0, 4), "b": entry(6, 8)}, bytes(8)), "overlap or leave a gap"),
        (raw({"a": entry(0, 4)}, bytes(3)), "truncated"),
        (raw({"a": entry(0, 4)}, bytes(5)), "trailing"),
    ],
)
def test_broken_files_are_refused(tmp_path, content, message):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(TensorFileError, match=message) as error:
        tensorfile.read_header(path)
    assert str(path) in str(error.value)


def edit_index(base, change):
    path = base / tensorfile.INDEX
    index = json.loads(path.read_text(encoding="utf-8"))
    change(index["weight_map"])
    path.write_text(json.dumps(index), encoding="utf-8")


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/passwd", "gone.safetensors", ""])
def test_index_that_points_elsewhere(base, name):
    (base.parent / "outside.safetensors").write_bytes(raw({}))
    edit_index(base, lambda weights: weights.update({"lm_head.weight": name}))
    with pytest.raises(TensorFileError, match="not a file of this folder"):
        tensorfile.read_checkpoint(base)


def test_index_and_files_must_agree(base):
    edit_index(base, lambda weights: weights.pop("lm_head.weight"))
    with pytest.raises(TensorFileError, match=r"'lm_head\.weight' lies in"):
        tensorfile.read_checkpoint(base)


def test_tensor_that_two_files_hold(base):
    """Each file is sound alone, and the index names the tensor once."""
    first, second = sorted(base.glob("*.safetensors"))
    index = json.loads((base / tensorfile.INDEX).read_text(encoding="utf-8"))["weight_map"]
    name = next(name for name, file in index.items() if file == first.name)
    twice = [*tensorfile.read_header(second), tensorfile.read_header(first)[0]]
    data = b"".join(tensor.read() for tensor in twice)
    second.write_bytes(tensorfile.header_bytes([tensor.spec for tensor in twice]) + data)
    with pytest.raises(TensorFileError, match=f"tensor .* lies in {second.name}, the index says"):
        tensorfile.read_checkpoint(base)
    assert name in index


def test_tensor_that_no_file_holds(base):
    edit_index(base, lambda weights: weights.update({"x": "model-00001-of-00002.safetensors"}))
    with pytest.raises(TensorFileError, match="no file holds, first 'x'"):
        tensorfile.read_checkpoint(base)


def test_file_that_is_not_in_the_index(base):
    (base / "stray.safetensors").write_bytes(raw({}))
    with pytest.raises(TensorFileError, match="stray.safetensors is not in the index"):
        tensorfile.read_checkpoint(base)


def test_folder_without_index(tmp_path, arrays):
    """One file needs no index, two do."""
    folder = write_checkpoint(tmp_path / "one", arrays, shards=1)
    (folder / tensorfile.INDEX).unlink()
    assert arrays.keys() == tensorfile.read_checkpoint(folder).keys()
    (folder / "second.safetensors").write_bytes(raw({}))
    with pytest.raises(TensorFileError, match=r"2 \*\.safetensors files"):
        tensorfile.read_checkpoint(folder)


def test_file_that_shrinks_while_it_is_read(base):
    tensor = tensorfile.read_checkpoint(base)["lm_head.weight"]
    tensor.file.write_bytes(tensor.file.read_bytes()[: tensor.offset + 10])
    with pytest.raises(TensorFileError, match=r"ends within tensor 'lm_head\.weight'"):
        tensor.read()
