"""An engine's reading of a config, on names alone; test_loaders.py holds it against vLLM itself."""

import re

import pytest

from forge.tensors import vllm_names

BODY = "model.language_model.layers.0"
LINEARS = {
    "lm_head": None,
    "model.visual.blocks.0.attn.qkv": None,
    f"{BODY}.self_attn.q_proj": "NVFP4",
    f"{BODY}.self_attn.k_proj": "NVFP4",
    f"{BODY}.self_attn.v_proj": "NVFP4",
    f"{BODY}.linear_attn.in_proj_a": None,
    f"{BODY}.linear_attn.in_proj_b": None,
    f"{BODY}.mlp.experts.0.gate_proj": "NVFP4",
    f"{BODY}.mlp.experts.0.down_proj": "NVFP4",
    "mtp.fc": None,
    "mtp.layers.0.mlp.experts": None,
}
DELTA = "language_model.model.layers.0.linear_attn.in_proj_ba"
EXACT = [name for name, kind in LINEARS.items() if kind is None]


def modelopt(*ignore):
    return {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": list(ignore)}


def test_layers_have_the_engines_names():
    assert vllm_names.taken(modelopt(*EXACT), LINEARS) == {
        "language_model.lm_head": None,
        "visual.blocks.0.attn.qkv": None,
        "language_model.model.layers.0.self_attn.qkv_proj": "NVFP4",
        "language_model.model.layers.0.linear_attn.in_proj_ba": None,
        "language_model.model.layers.0.mlp.experts": "NVFP4",
        "mtp.fc": None,
        "mtp.layers.0.mlp.experts": None,
        "lm_head": None,
    }


def test_exact_names_are_understood():
    assert vllm_names.mistaken(modelopt(*EXACT), LINEARS) == []


@pytest.mark.parametrize(
    ("lost", "layers"),
    [
        ("mtp.fc", ["mtp.fc"]),
        ("mtp.layers.0.mlp.experts", ["mtp.layers.0.mlp.experts"]),
        ("lm_head", ["language_model.lm_head", "lm_head"]),
        (f"{BODY}.linear_attn.in_proj_a", [DELTA]),
    ],
)
def test_entry_too_few(lost, layers):
    ignore = [entry for entry in EXACT if entry != lost]
    assert vllm_names.mistaken(modelopt(*ignore), LINEARS) == layers


@pytest.mark.parametrize(
    ("extra", "layer"),
    [
        ("*self_attn*", "self_attn.qkv_proj"),
        ("self_attn", "self_attn.qkv_proj"),
        (f"{BODY}.mlp*", "mlp.experts"),
    ],
)
def test_entry_too_many(extra, layer):
    wrong = vllm_names.mistaken(modelopt(*EXACT, extra), LINEARS)
    assert wrong == [f"language_model.model.layers.0.{layer}"]


def test_some_parts_of_a_fused_layer():
    """There vLLM stops, even where the name of a part lies in the layer's, as in_proj_b does in
    in_proj_ba."""
    config = modelopt(*EXACT, f"{BODY}.self_attn.q_proj")
    layer = "language_model.model.layers.0.self_attn.qkv_proj"
    assert vllm_names.taken(config, LINEARS)[layer] == vllm_names.DISPUTED
    assert vllm_names.mistaken(config, LINEARS) == [layer]


@pytest.mark.parametrize("extra", ["*q_proj", "re:.*q_proj"])
def test_patterns_that_exclude_no_fused_layer(extra):
    """Of a fused layer vLLM asks for qkv_proj, which these do not match."""
    assert vllm_names.mistaken(modelopt(*EXACT, extra), LINEARS) == []


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        (
            "model.language_model.layers.*.self_attn.q_proj",
            [f"{BODY}.self_attn.q_proj", "language_model.model.layers.0.self_attn.q_proj"],
        ),
        ("lm_head.*.a", ["lm_head.x.a", "language_model.lm_head.x.a"]),
        ("other.**.x_proj", ["other.a.b.x_proj"]),
    ],
)
def test_targets_cover_both_names_and_no_more(pattern, names):
    target = vllm_names.target(pattern)
    assert target.startswith("re:")
    regex = re.compile(target.removeprefix("re:"))
    assert all(regex.match(name) for name in names)
    others = (f"mtp.{names[0]}", names[0] + "_2", names[0].replace(".", "x"))
    assert not any(regex.match(name) for name in others)
