"""The one pass over result and base: digests, and an outcome that no order of the data changes."""

import os
import shutil

import pytest
from assay_edits import failed, flip_a_bit, listed, poke
from conftest import FLAGSHIP, MIXED, base_arrays, build_small

from assay.checks import reading, structure
from forge.core import canonical
from forge.recipes import recipe
from forge.tensors import tensorfile

SHARD = "model-00001-of-00001.safetensors"
KEPT = "model.language_model.embed_tokens.weight"
LINEAR = "model.language_model.layers.1.mlp.down_proj.weight"


@pytest.fixture
def copied(built, tmp_path):
    """A copy that may be broken, and what the build had written."""
    return shutil.copytree(built.checkpoint, tmp_path / "copy"), listed(built.checkpoint)


@pytest.mark.parametrize(
    ("name", "gates"),
    [
        (KEPT, {"structure.kept", "structure.digests"}),
        ("mtp.fc.weight", {"structure.mtp", "structure.digests"}),
        (LINEAR, {"structure.digests"}),  # one bit of a code is within what rounding explains
    ],
)
def test_bit_of_a_tensor_since_it_was_written(built, copied, name, gates):
    checkpoint, written = copied
    poke(checkpoint, name, flip_a_bit)
    assert failed(built, checkpoint, written) == gates


def test_byte_of_a_file_that_is_no_tensors(built, copied):
    """Spaces at the end of a header: every tensor is the same, the file is not."""
    checkpoint, written = copied
    data = (checkpoint / SHARD).read_bytes()
    header = int.from_bytes(data[:8], "little")
    longer = (header + 8).to_bytes(8, "little") + data[8 : 8 + header] + b" " * 8
    (checkpoint / SHARD).write_bytes(longer + data[8 + header :])
    assert failed(built, checkpoint, written) == {"structure.digests"}


@pytest.mark.parametrize(
    ("name", "gates"),
    [
        (KEPT, {"structure.kept", "structure.sources"}),
        ("mtp.fc.weight", {"structure.mtp", "structure.sources"}),
        (LINEAR, {"structure.sources"}),
    ],
)
def test_bit_of_the_base_since_it_was_fetched(built, name, gates):
    """Size and time of the file are as they were."""
    tensor = built.made.base[name]
    status = tensor.file.stat()
    poke(built.inputs / "base", name, flip_a_bit)
    os.utime(tensor.file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert failed(built, built.checkpoint) == gates


@pytest.mark.parametrize("variant", [FLAGSHIP, MIXED])
@pytest.mark.parametrize("shards", [1, 7])
def test_order_of_the_data_changes_no_outcome(tmp_path, variant, shards):
    """Scales before codes, experts from last to first, one linear in two files."""
    built = build_small(tmp_path, base_arrays(variant=variant), recipe.find(variant))
    other = tmp_path / "other"
    shutil.copytree(built.checkpoint, other, ignore=shutil.ignore_patterns("*.safetensors"))
    tensors = list(reversed(tensorfile.read_checkpoint(built.checkpoint).values()))
    placed = []
    for number in range(shards):
        part = tensors[number * len(tensors) // shards : (number + 1) * len(tensors) // shards]
        file = f"{number}.safetensors"
        header = tensorfile.header_bytes([tensor.spec for tensor in part])
        (other / file).write_bytes(header + b"".join(tensor.read() for tensor in part))
        placed += [(file, tensor.spec) for tensor in part]
    canonical.write(other / tensorfile.INDEX, tensorfile.index_json(placed))

    found, as_built = (
        structure.run(built.made, folder, built.results["fetch"], listed(folder))
        for folder in (other, built.checkpoint)
    )
    assert all(check.passed for check in found.checks)
    assert as_built.errors == found.errors
    assert len(found.errors) == len(built.made.plan.linears)


def test_pieces_of_a_large_tensor(built, monkeypatch):
    """A piece at a time, of every tensor and every linear, gives what the whole does."""
    stored = tensorfile.read_checkpoint(built.checkpoint)
    whole = reading.read(built.made, built.checkpoint, stored, [])
    monkeypatch.setattr(reading, "CHUNK", 7)
    monkeypatch.setattr(reading.quantization_error, "CHUNK", 64)
    pieces = reading.read(built.made, built.checkpoint, stored, [])
    assert (whole.files, whole.tensors, whole.scales) == (
        pieces.files, pieces.tensors, pieces.scales,
    )  # fmt: skip
    assert not pieces.moved
    assert not pieces.unequal
    assert not pieces.bad
    for one, other in zip(whole.errors, pieces.errors, strict=True):
        assert one.relative == pytest.approx(other.relative, rel=1e-12)
