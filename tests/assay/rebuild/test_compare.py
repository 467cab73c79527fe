"""Each way in which one checkpoint can differ from another has its own verdict."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from conftest import bf16, write_checkpoint
from hypothesis import given
from hypothesis import strategies as st

from assay.rebuild import compare, tables
from forge.core.errors import DifferenceError
from forge.tensors import tensorfile
from forge.tensors.tensorfile import Spec

BODY, MTP = "model-00001-of-00001.safetensors", "model-mtp.safetensors"
LINEAR = "model.language_model.layers.1.mlp.down_proj"
NORM = "model.language_model.norm.weight"


@pytest.fixture
def pair(built, tmp_path):
    """The same checkpoint twice; the second is there to be broken."""
    return built.checkpoint, shutil.copytree(built.checkpoint, tmp_path / "copy")


def flip(folder, name):
    """Flips the last bit of a tensor's first byte, where it lies."""
    tensor = tensorfile.read_checkpoint(folder)[name]
    with tensor.file.open("r+b") as file:
        file.seek(tensor.offset)
        byte = file.read(1)[0]
        file.seek(tensor.offset)
        file.write(bytes([byte ^ 1]))


def write_shard(path, tensors, metadata=None):
    specs = [Spec(name=t.name, dtype=t.dtype, shape=t.shape) for t in tensors]
    data = b"".join(t.read() for t in tensors)
    path.write_bytes(tensorfile.header_bytes(specs, metadata) + data)


def verdicts(found):
    """What is not identical."""
    return {file.path: file.verdict for file in found.files if file.verdict != "identical"}


def test_a_copy_is_identical(pair):
    found = compare.folders(*pair)
    assert found.identical
    assert found.compared == len(tensorfile.read_checkpoint(pair[0]))
    assert {file.path for file in found.files} == {path.name for path in pair[0].iterdir()}


@pytest.mark.parametrize(
    ("name", "kind", "unit"),
    [
        (f"{LINEAR}.weight", "packed weight", "E2M1 codes"),
        (f"{LINEAR}.weight_scale", "block scale", "E4M3 codes"),
        (f"{LINEAR}.weight_scale_2", "global scale", "float32 ulp"),
        (f"{LINEAR}.input_scale", "input scale", "float32 ulp"),
        (NORM, "copied tensor", "bf16 ulp"),
    ],
)
def test_one_bit_of_a_tensor(pair, name, kind, unit):
    flip(pair[1], name)
    found = compare.folders(*pair)
    assert verdicts(found) == {BODY: "tensors differ"}
    (one,) = found.tensors
    assert (one.name, one.kind, one.file, one.fault) == (name, kind, BODY, "values")
    assert (one.elements, one.largest, one.unit) == (1, 1, unit)
    assert (one.relative is not None) == (kind in {"global scale", "input scale"})


def test_one_bit_of_the_head(pair):
    flip(pair[1], "mtp.norm.weight")
    assert verdicts(compare.folders(*pair)) == {MTP: "tensors differ"}


def test_other_config(pair):
    (pair[1] / "config.json").write_text("{}", encoding="utf-8")
    found = compare.folders(*pair)
    assert verdicts(found) == {"config.json": "differs"}
    assert not found.tensors
    assert not found.identical


def test_header_only(pair):
    """A metadata key, and the same tensors in another order: no tensor is another."""
    body, head = (tensorfile.read_header(pair[1] / name) for name in (BODY, MTP))
    write_shard(pair[1] / BODY, body, {"format": "pt"})
    write_shard(pair[1] / MTP, head[::-1])
    found = compare.folders(*pair)
    assert verdicts(found) == {BODY: "header only", MTP: "header only"}
    assert not found.tensors
    assert not found.identical


def test_re_sharded(pair):
    """Tensors from one file of both into the other, and a file under another name."""
    body, head = (tensorfile.read_header(pair[1] / name) for name in (BODY, MTP))
    write_shard(pair[1] / "other.safetensors", body[:5])
    write_shard(pair[1] / BODY, body[5:] + head[:1])
    write_shard(pair[1] / "mtp.safetensors", head[1:])
    (pair[1] / MTP).unlink()
    found = compare.folders(*pair)
    assert verdicts(found) == dict.fromkeys(
        (BODY, MTP, "mtp.safetensors", "other.safetensors"), "re-sharded"
    )
    assert not found.tensors


def test_re_sharded_and_changed(pair):
    """What moved is still compared: both files that the tensor lies in are at fault."""
    flip(pair[1], "mtp.norm.weight")
    (pair[1] / MTP).rename(pair[1] / "mtp.safetensors")
    found = compare.folders(*pair)
    assert verdicts(found) == {MTP: "missing", "mtp.safetensors": "extra"}
    assert [one.name for one in found.tensors] == ["mtp.norm.weight"]


def test_missing_and_extra_files(pair):
    (pair[1] / "vocab.json").unlink()
    (pair[1] / "modeling.py").write_text("import os", encoding="utf-8")
    assert verdicts(compare.folders(*pair)) == {"vocab.json": "missing", "modeling.py": "extra"}


def test_missing_shard(pair):
    (pair[1] / MTP).unlink()
    found = compare.folders(*pair)
    assert verdicts(found) == {MTP: "missing"}
    assert {one.fault for one in found.tensors} == {"missing"}
    assert len(found.tensors) == len(tensorfile.read_header(pair[0] / MTP))


def test_missing_and_extra_tensors(pair):
    head = tensorfile.read_header(pair[1] / MTP)
    write_shard(pair[1] / MTP, head[1:])
    found, mirrored = compare.folders(*pair), compare.folders(*reversed(pair))
    assert [(one.name, one.fault, one.after) for one in found.tensors] == [
        (head[0].name, "missing", "")
    ]
    assert [(one.fault, one.before) for one in mirrored.tensors] == [("extra", "")]
    assert verdicts(found) == {MTP: "tensors differ"}


def test_a_name_that_lies_in_two_files(pair):
    """An engine may load either, so the second is no copy that could be passed over."""
    write_shard(pair[1] / "zz.safetensors", tensorfile.read_header(pair[1] / MTP)[:1])
    found = compare.folders(*pair)
    assert verdicts(found) == {"zz.safetensors": "extra"}
    assert [one.fault for one in found.tensors] == ["extra"]


def test_other_form(pair):
    head = tensorfile.read_header(pair[1] / MTP)
    first = head[0]
    specs = [Spec(name=t.name, dtype=t.dtype, shape=t.shape) for t in head]
    specs[0] = Spec(name=first.name, dtype="F16", shape=first.shape)
    data = b"".join(t.read() for t in head)
    (pair[1] / MTP).write_bytes(tensorfile.header_bytes(specs) + data)
    (one,) = compare.folders(*pair).tensors
    assert (one.fault, one.before, one.after) == (
        "form", f"BF16 {list(first.shape)}", f"F16 {list(first.shape)}",
    )  # fmt: skip


def test_truncated_shard(pair):
    """Its tensors cannot be read, which is said, and they count as missing."""
    os.truncate(pair[1] / MTP, (pair[1] / MTP).stat().st_size - 1)
    found = compare.folders(*pair)
    assert verdicts(found) == {MTP: "differs"}
    assert "truncated" in next(file.detail for file in found.files if file.path == MTP)
    assert {one.fault for one in found.tensors} == {"missing"}


@pytest.mark.parametrize("change", [{"shape": 5}, {"dtype": []}, {"data_offsets": {}}])
def test_hostile_header(pair, change):
    """A header that is JSON but no header ends in a verdict, not in a traceback."""
    entry = {"dtype": "U8", "shape": [0], "data_offsets": [0, 0], **change}
    header = json.dumps({"x": entry}).encode()
    (pair[1] / MTP).write_bytes(len(header).to_bytes(8, "little") + header)
    assert verdicts(compare.folders(*pair)) == {MTP: "differs"}


def test_what_is_outside_the_checkpoint(pair):
    for name in ("provenance/provenance.json", ".cache/huggingface/x", ".gitattributes"):
        (pair[1] / name).parent.mkdir(parents=True, exist_ok=True)
        (pair[1] / name).write_text("x", encoding="utf-8")
    assert compare.folders(*pair).identical


def test_no_index_is_needed(pair):
    for folder in pair:
        (folder / tensorfile.INDEX).unlink()
    assert compare.folders(*pair).identical


def test_nothing_to_compare(pair, tmp_path):
    """Two empty folders are not identical: nothing was looked at."""
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    with pytest.raises(DifferenceError, match="one: holds no file to compare"):
        compare.folders(tmp_path / "one", tmp_path / "other")
    with pytest.raises(DifferenceError, match="other: holds no file to compare"):
        compare.folders(pair[0], tmp_path / "other")
    with pytest.raises(FileNotFoundError, match="third"):
        compare.folders(pair[0], tmp_path / "third")


@given(seed=st.integers(0, 2**32 - 1), shards=st.integers(1, 4), other=st.integers(1, 4))
def test_sharding_never_matters_and_neither_does_the_side(seed, shards, other):
    """With itself a checkpoint is identical; against a changed and re-sharded copy it differs in
    just the elements that were changed, seen from either side."""
    rng = np.random.default_rng(seed)
    arrays = {f"t{n}.weight": bf16(rng, *rng.integers(1, 9, 2)) for n in range(5)}
    changed = {name: array ^ (rng.random(array.shape) < 0.1) for name, array in arrays.items()}
    expected = {
        name: np.count_nonzero(arrays[name] != changed[name])
        for name in arrays
        if np.any(arrays[name] != changed[name])
    }
    with tempfile.TemporaryDirectory() as root:
        one = write_checkpoint(Path(root, "one"), arrays, shards)
        two = write_checkpoint(Path(root, "two"), changed, other)
        for folder in (one, two):
            assert compare.folders(folder, folder).identical
        there, back = compare.folders(one, two), compare.folders(two, one)
    assert {t.name: t.elements for t in there.tensors} == expected
    assert {t.name: t.largest for t in back.tensors} == {t.name: t.largest for t in there.tensors}
    assert {t.name: t.elements for t in back.tensors} == expected
    swapped = {"missing": "extra", "extra": "missing"}
    assert verdicts(there) == {
        path: swapped.get(verdict, verdict) for path, verdict in verdicts(back).items()
    }


def test_a_long_table_is_cut(capsys):
    tables.table(("name",), [(f"row {number}",) for number in range(100)])
    said = capsys.readouterr().out
    assert "row 39" in said
    assert "row 40" not in said
    assert "... and 60 more" in said


def test_names_are_no_markup(capsys):
    tables.table(("name",), [("[bold red]x[/]",)])
    assert "[bold red]x[/]" in capsys.readouterr().out


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "assay", "compare", *map(str, arguments)],
        capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip


def test_command_says_identical_in_one_line(pair):
    done = run(*pair)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{pair[0]} and {pair[1]} are identical: 8 files, ")
    assert done.stdout.count("\n") == 1


def test_command_says_what_differs(pair, tmp_path):
    flip(pair[1], f"{LINEAR}.weight_scale")
    done = run(*pair, "--report", tmp_path / "report.json")
    assert done.returncode == 20
    assert "1 of 8 files and 1 of " in done.stderr
    assert "(1 x block scale)" in done.stderr
    assert f"{LINEAR}.weight_scale " in done.stdout
    assert "\x1b" not in done.stdout + done.stderr
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert not report["identical"]
    assert report["tensors"][0]["elements"] == 1
