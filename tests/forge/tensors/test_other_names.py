"""How SGLang and transformers read a config, on names alone; transformers' is held against it."""

import functools

import pytest
from conftest import FLAGSHIP, MIXED

from forge.core import canonical
from forge.recipes import recipe
from forge.tensors import configs, other_names, tensorfile
from forge.tensors.other_names import sglang, transformers
from forge.tensors.vllm_names import DISPUTED

BODY = "model.language_model.layers.0"
BASELINE = "qwen36-27b-nvfp4"
LINEARS = {
    "lm_head": None,
    "model.visual.blocks.0.attn.qkv": None,
    f"{BODY}.self_attn.q_proj": None,
    f"{BODY}.self_attn.k_proj": None,
    f"{BODY}.self_attn.v_proj": None,
    f"{BODY}.linear_attn.out_proj": None,
    f"{BODY}.mlp.down_proj": "NVFP4",
    f"{BODY}.mlp.gate_proj": "NVFP4",
    f"{BODY}.mlp.up_proj": "NVFP4",
    f"{BODY}.mlp.experts.0.gate_proj": "NVFP4",
    f"{BODY}.mlp.experts.0.down_proj": "NVFP4",
    "mtp.fc": None,
    "mtp.layers.0.mlp.down_proj": None,
}
EXACT = [name for name, kind in LINEARS.items() if kind is None]
FUSED = f"{BODY}.mlp.gate_up_proj"


def modelopt(*ignore):
    return {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": list(ignore)}


def compressed(*ignore, targets=(r"re:.*mlp.*_proj$",), **others):
    groups = {"group_0": {"format": "NVFP4", "targets": list(targets)}, **others}
    return {
        "quant_method": "compressed-tensors", "config_groups": groups, "ignore": list(ignore)
    }  # fmt: skip


@pytest.mark.parametrize("config", [modelopt(*EXACT), compressed(*EXACT)])
def test_exact_names_are_understood_by_sglang(config):
    assert other_names.mistaken(config, LINEARS)["sglang"] == []


def test_sglang_quantizes_no_attention_under_modelopt():
    """Whatever is stored and listed: `attn_quant_config` and its siblings are None there."""
    stored = LINEARS | {f"{BODY}.linear_attn.out_proj": "NVFP4"}
    assert other_names.mistaken(modelopt(*EXACT), stored)["sglang"] == [
        f"{BODY}.linear_attn.out_proj"
    ]


@pytest.mark.parametrize(
    ("ignore", "layer", "taken"),
    [
        ([], FUSED, "NVFP4"),
        ([f"{BODY}.mlp.gate_proj"], FUSED, DISPUTED),
        ([f"{BODY}.mlp.gate_proj", f"{BODY}.mlp.up_proj"], FUSED, None),
        ([FUSED], FUSED, None),
        ([f"{BODY}.mlp*"], FUSED, None),
        (["mlp"], FUSED, None),  # a part of the dotted name
        (["ml"], FUSED, "NVFP4"),  # not a part of a part
        (["*down*"], f"{BODY}.mlp.down_proj", None),
        (["re:.*down_proj"], f"{BODY}.mlp.down_proj", "NVFP4"),
        ([f"{BODY}.mlp.experts*"], f"{BODY}.mlp.experts", None),
        (["mtp.layers.0.mlp.experts.0.gate_proj"], f"{BODY}.mlp.experts", "NVFP4"),
        ([], "lm_head", None),
        ([], "model.visual.blocks.0.attn.qkv", None),
        ([], "mtp.layers.0.mlp.down_proj", None),
    ],
)
def test_modelopt_as_sglang_reads_it(ignore, layer, taken):
    assert sglang(modelopt(*ignore), LINEARS)[layer] == taken


@pytest.mark.parametrize(
    ("ignore", "layer", "taken"),
    [
        ([], FUSED, "NVFP4"),
        ([f"{BODY}.mlp.gate_proj"], FUSED, DISPUTED),
        (["re:.*mlp.(gate|up)_proj"], FUSED, None),
        ([FUSED], FUSED, None),
        (["MLP.down"], f"{BODY}.mlp.down_proj", None),  # it lies in the name, in any case
        (["re:down_proj"], f"{BODY}.mlp.down_proj", "NVFP4"),  # matches from the start only
        ([], f"{BODY}.linear_attn.out_proj", DISPUTED),  # no target: it stops
        (["linear_attn"], f"{BODY}.linear_attn.out_proj", None),
        ([], f"{BODY}.mlp.experts", "NVFP4"),
        (["re:.*experts.0.up_proj"], f"{BODY}.mlp.experts", DISPUTED),
        (["re:.*experts.0.*"], f"{BODY}.mlp.experts", None),
        ([], "mtp.fc", None),
        ([], "mtp.layers.0.mlp.down_proj", "NVFP4"),
        (["re:^mtp.*"], "mtp.layers.0.mlp.down_proj", None),
    ],
)
def test_compressed_tensors_as_sglang_reads_it(ignore, layer, taken):
    assert sglang(compressed(*ignore), LINEARS)[layer] == taken


def test_a_name_that_begins_like_anothers_covers_both_for_sglang():
    """A router's beside a linear's: an entry of compressed-tensors needs to lie in a name only."""
    router = {f"{BODY}.mlp.gate": None}
    found = other_names.mistaken(compressed(*EXACT, *router), LINEARS | router)
    assert found["sglang"] == [FUSED]


def test_sglang_finds_targets_by_class():
    config = compressed(targets=["Linear"])
    assert sglang(config, LINEARS)[f"{BODY}.linear_attn.out_proj"] == "NVFP4"
    assert sglang(config, LINEARS)[f"{BODY}.self_attn.qkv_proj"] == "NVFP4"


def test_transformers_knows_no_modelopt_and_no_head():
    taken = transformers(modelopt(*EXACT), LINEARS)
    assert set(taken.values()) == {None}
    assert not any(name.startswith("mtp.") for name in taken)
    assert len(other_names.mistaken(modelopt(*EXACT), LINEARS)["transformers"]) == 5


@pytest.fixture(scope="module")
def checkpoint(small):
    @functools.cache
    def read(variant):
        built = small(variant)
        stored = tensorfile.read_checkpoint(built.checkpoint)
        config = canonical.read(built.checkpoint / "config.json")
        return config, configs.linears(stored.values(), built.made.plan), recipe.find(variant)

    return read


@pytest.mark.parametrize("variant", recipe.names())
def test_the_readers_of_a_recipe_read_it(checkpoint, variant):
    config, modules, wanted = checkpoint(variant)
    found = other_names.mistaken(config["quantization_config"], modules)
    assert {name for name, wrong in found.items() if not wrong} == set(wanted.gates.readers)


IGNORED = {
    "as published": None,
    "nothing": [],
    "names": ["lm_head", "model.language_model.layers.1.self_attn.o_proj"],
    "regular expressions": ["re:.*visual.*", "re:.*self_attn.(q|k|v)_proj", "re:.*down_proj$"],
    "a class": ["Linear"],
    "globs, which mean nothing here": ["*visual*", "*o_proj*"],
}


@pytest.mark.libraries
@pytest.mark.parametrize("variant", [MIXED, BASELINE])
@pytest.mark.parametrize("ignore", IGNORED.values(), ids=IGNORED)
def test_transformers_own_matching(checkpoint, variant, ignore):
    """Its modules, marked by compressed-tensors as its quantizer has it done."""
    import torch
    from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config
    from transformers import AutoConfig, AutoModelForImageTextToText

    config, modules, _ = checkpoint(variant)
    declared = dict(config["quantization_config"])
    if ignore is not None:
        declared["ignore"] = ignore
    plain = {key: value for key, value in config.items() if key != "quantization_config"}
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(AutoConfig.for_model(**plain))
    groups = {key: declared[key] for key in ("config_groups", "ignore", "format", "quant_method")}
    apply_quantization_config(model, QuantizationConfig.model_validate(groups))
    theirs = {
        name: scheme.format and str(getattr(scheme.format, "value", scheme.format))
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
        for scheme in [getattr(module, "quantization_scheme", None)]
        if scheme is not None
    }
    ours = transformers(declared, modules)
    body = {name for name in ours if ".experts" not in name}
    assert {name: theirs.get(name) for name in body} == {name: ours[name] for name in body}
    assert theirs.keys() <= body


@pytest.mark.libraries
def test_transformers_finds_the_experts_group(checkpoint):
    from compressed_tensors.quantization import QuantizationConfig
    from transformers.integrations.compressed_tensors import get_experts_scheme

    declared = checkpoint(MIXED)[0]["quantization_config"]
    groups = {key: declared[key] for key in ("config_groups", "ignore", "format", "quant_method")}
    theirs = get_experts_scheme(QuantizationConfig.model_validate(groups)).format
    ours = transformers(declared, checkpoint(MIXED)[1])
    assert {kind for name, kind in ours.items() if ".experts." in name} == {
        str(getattr(theirs, "value", theirs))
    }


@pytest.mark.libraries
def test_transformers_skips_modelopts_formats(checkpoint):
    from transformers.quantizers.auto import AutoHfQuantizer

    declared = checkpoint(FLAGSHIP)[0]["quantization_config"]
    assert AutoHfQuantizer.supports_quant_method(declared) is False
