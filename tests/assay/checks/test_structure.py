"""Each structural gate passes the real artifact and fails on one that is broken for it."""

import errno
import os
import resource
import shutil

import numpy as np
import pytest
from assay_edits import edit_json, failed, flip_a_bit, listed, poke, rewrite, set_nan

from assay.checks import declared, structure
from forge.tensors import tensorfile
from forge.tensors.tensorfile import Spec

MTP = "model-mtp.safetensors"


@pytest.fixture
def checkpoint(built, tmp_path):
    """A copy that may be broken; the store's own stays whole."""
    return shutil.copytree(built.checkpoint, tmp_path / "copy")


def test_the_real_artifact_passes(built, checkpoint):
    found = structure.run(built.made, checkpoint, built.results["fetch"], listed(checkpoint))
    checks = found.checks
    assert not failed(built, checkpoint)
    assert len(checks) == 14
    assert [error.module for error in found.errors] == sorted(built.made.plan.linears)
    assert all(check.measured for check in checks)


def test_mtp_left_out(built, checkpoint):
    """What a from_pretrained/save_pretrained round trip does."""
    rewrite(checkpoint, MTP, lambda _: False)
    (checkpoint / MTP).unlink()
    assert failed(built, checkpoint) == {"structure.names", "structure.mtp", "structure.ignore"}


def test_one_mtp_tensor_left_out(built, checkpoint):
    rewrite(checkpoint, MTP, lambda tensor: tensor.name != "mtp.norm.weight")
    assert failed(built, checkpoint) == {"structure.names", "structure.mtp"}


def test_mtp_zeroed(built, checkpoint):
    def zero(data):
        data[:] = bytes(len(data))

    for name in built.job.recipe.mtp.tensors:
        poke(checkpoint, name, zero)
    assert failed(built, checkpoint) == {"structure.mtp"}


@pytest.mark.parametrize(
    "name",
    [
        "model.visual.blocks.0.attn.qkv.weight",
        "lm_head.weight",
        "model.language_model.embed_tokens.weight",
        "model.language_model.layers.0.linear_attn.conv1d.weight",
        "model.language_model.layers.1.input_layernorm.weight",
    ],
)
def test_one_bit_of_a_kept_tensor(built, checkpoint, name):
    poke(checkpoint, name, flip_a_bit)
    assert failed(built, checkpoint) == {"structure.kept"}


@pytest.mark.parametrize(
    ("suffix", "change"),
    [
        ("weight_scale_2", set_nan("<f4")),
        ("input_scale", set_nan("<f4")),
        ("input_scale", lambda data: data.__setitem__(slice(0, 4), bytes(4))),
        ("input_scale", lambda data: data.__setitem__(slice(0, 4), bytes([255, 255, 127, 0]))),
        ("weight_scale", lambda data: data.__setitem__(5, 0x7F)),
        ("weight_scale", lambda data: data.__setitem__(5, 0)),
        ("weight_scale", lambda data: data.__setitem__(5, 0xB8)),
    ],
)
def test_bad_scale(built, checkpoint, suffix, change):
    """NaN, zero, subnormal and negative, in each kind of scale."""
    poke(checkpoint, f"model.language_model.layers.1.mlp.down_proj.{suffix}", change)
    assert failed(built, checkpoint) == {"structure.scales"}


@pytest.mark.parametrize("suffix", ["weight_scale_2", "input_scale"])
def test_siblings_of_which_one_has_another_global_scale(built, checkpoint, suffix):
    """Off by the last bit, which no other check can tell."""

    def next_float(data):
        data[:] = np.nextafter(np.frombuffer(data, "<f4"), np.float32(9)).tobytes()

    poke(checkpoint, f"model.language_model.layers.1.self_attn.k_proj.{suffix}", next_float)
    assert failed(built, checkpoint) == {"structure.siblings"}


def test_missing_scale(built, checkpoint):
    lost = "model.language_model.layers.1.mlp.down_proj.input_scale"
    rewrite(checkpoint, "model-00001-of-00001.safetensors", lambda tensor: tensor.name != lost)
    assert failed(built, checkpoint) == {
        "structure.names", "structure.quantized", "structure.scales",
    }  # fmt: skip


def test_linear_left_unquantized(built, checkpoint):
    """A linear stored in BF16 under its own name is caught by dtype, whatever the config says."""
    file = "model-00001-of-00001.safetensors"
    name = "model.language_model.layers.1.mlp.down_proj.weight"
    tensors = tensorfile.read_header(checkpoint / file)
    parts, specs = [], []
    for tensor in tensors:
        wide = tensor.name == name
        shape = (tensor.shape[0], tensor.shape[1] * 2) if wide else tensor.shape
        specs.append(Spec(name=tensor.name, dtype="BF16" if wide else tensor.dtype, shape=shape))
        parts.append(bytes(specs[-1].nbytes) if wide else tensor.read())
    (checkpoint / file).write_bytes(tensorfile.header_bytes(specs) + b"".join(parts))
    assert "structure.quantized" in failed(built, checkpoint)


@pytest.mark.parametrize("file", ["config.json", "hf_quant_config.json"])
@pytest.mark.parametrize("change", ["removed", "added", "pattern"])
def test_ignore_list(built, checkpoint, file, change):
    """An entry too few, too many, or a glob instead of a name, in either list."""

    def edit(data):
        inner = data.get("quantization_config") or data["quantization"]
        ignore = inner.get("ignore") or inner["exclude_modules"]
        if change == "added":
            ignore.append("model.language_model.layers.0.mlp.up_proj")
        else:
            ignore.remove("mtp.fc")
        if change == "pattern":
            ignore.append("mtp*")

    edit_json(checkpoint / file, edit)
    assert failed(built, checkpoint) == {"structure.ignore"}


def test_total_size(built, checkpoint):
    edit_json(checkpoint / tensorfile.INDEX, lambda index: index["metadata"].update(total_size=1))
    assert failed(built, checkpoint) == {"structure.index"}


def test_index_that_names_another_file(built, checkpoint):
    edit_json(
        checkpoint / tensorfile.INDEX,
        lambda index: index["weight_map"].update({"mtp.fc.weight": "gone.safetensors"}),
    )
    assert failed(built, checkpoint) == {"structure.index"}


def test_truncated_shard(built, checkpoint):
    path = checkpoint / MTP
    os.truncate(path, path.stat().st_size - 1)
    assert failed(built, checkpoint) == {"structure.index"}


@pytest.mark.parametrize(
    "breakage",
    [
        lambda folder: (folder / "tokenizer_config.json").unlink(),
        lambda folder: (folder / "tokenizer_config.json").write_text("{broken", encoding="utf-8"),
        lambda folder: edit_json(folder / "config.json", lambda config: config.update(x=1)),
        lambda folder: (folder / "vocab.json").write_text("{}", encoding="utf-8"),
        lambda folder: (folder / "modeling.py").write_text("import os", encoding="utf-8"),
        lambda folder: (folder / "notes.txt").write_text("x", encoding="utf-8"),
        lambda folder: (folder / "chat_template.jinja").write_text("of the base", encoding="utf-8"),
        lambda folder: (folder / "tokenizer_config.json").write_text(
            '{"backend": "x"}', encoding="utf-8"
        ),
    ],
)
def test_files_beside_the_weights(built, checkpoint, breakage):
    breakage(checkpoint)
    assert failed(built, checkpoint) == {"structure.files"}


def test_a_config_that_the_system_refuses_is_not_told_as_a_wrong_one(checkpoint):
    """A process that has too many files open; a config that is not there fails the checks."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(OSError, match="Too many open files") as refused:
            declared.json_object(checkpoint / "config.json")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert refused.value.errno == errno.EMFILE
    assert declared.json_object(checkpoint / "none.json") == {}
