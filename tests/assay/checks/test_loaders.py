"""What forge.tensors.vllm_names says of an engine is what vLLM itself says, layer by layer."""

import functools

import pytest
from conftest import FLAGSHIP, MIXED

from forge.core import canonical
from forge.recipes import recipe
from forge.tensors import configs, tensorfile, vllm_names

pytestmark = pytest.mark.engine
BASELINE = "qwen36-27b-nvfp4"
MODELOPT = {
    "published globs": ["*model.visual*", "*linear_attn.conv1d*", "*lm_head*", "*mtp*"],
    "globs that reach the tower": ["*visual*", "*linear_attn.conv1d*", "*lm_head*", "*mtp*"],
    "prefixes": ["model.visual*", "lm_head", "mtp*", "model.language_model.layers.1.mlp*"],
    "regular expressions": ["re:.*visual.*", "re:mtp.*"],
    "parts of names": ["visual", "lm_head", "mtp", "self_attn.o_proj"],
    "one part of a fused layer": ["model.language_model.layers.1.self_attn.q_proj", "mtp.fc"],
    "a part whose name lies in the layer's": [
        "model.language_model.layers.0.linear_attn.in_proj_b"
    ],
    "a fused layer by its own name": ["model.language_model.layers.1.self_attn.qkv_proj"],
    "nothing": [],
}
COMPRESSED = {
    "as published": None,
    "nothing": [],
    "names": ["lm_head", "model.language_model.layers.1.self_attn.o_proj", "mtp.fc"],
    "regular expressions": ["re:^mtp.*", "re:.*self_attn.(q|k|v)_proj", "re:.*down_proj$"],
    "one part of a fused layer": ["re:.*q_proj$", "re:.*experts.*gate_proj$"],
    "experts as a whole": ["re:.*experts$", "model.language_model.layers.1.mlp.experts"],
    "globs, which mean nothing here": ["*visual*", "*o_proj*"],
}


@pytest.fixture(scope="module")
def checkpoint(small):
    @functools.cache
    def read(variant):
        built = small(variant)
        stored = tensorfile.read_checkpoint(built.checkpoint)
        config = canonical.read(built.checkpoint / "config.json")["quantization_config"]
        return (
            config,
            configs.linears(stored.values(), built.made.plan),
            recipe.find(variant).architecture,
        )

    return read


def engine_models(architecture):
    """The class that vLLM serves an architecture with, and that of its head."""
    from vllm.model_executor.models import qwen3_5, qwen3_5_mtp

    head = "Qwen3_5MoeMTP" if "Moe" in architecture else "Qwen3_5MTP"
    return getattr(qwen3_5, architecture), getattr(qwen3_5_mtp, head)


def loaded(config, model):
    """A config as vLLM reads it, fitted to a model as its loader does it."""
    from vllm.model_executor.layers.quantization.compressed_tensors.compressed_tensors import (
        CompressedTensorsConfig,
    )
    from vllm.model_executor.layers.quantization.modelopt import ModelOptNvFp4Config
    from vllm.model_executor.model_loader.utils import configure_quant_config

    modelopt = config["quant_method"] == "modelopt"
    read = (ModelOptNvFp4Config if modelopt else CompressedTensorsConfig).from_config(
        {**config, "ignore": list(config["ignore"])}
    )
    configure_quant_config(read, model)
    return read


def says(read, layer):
    """What vLLM takes a layer for, asked as its own layers ask."""
    import torch

    try:
        if hasattr(read, "is_layer_excluded"):
            return None if read.is_layer_excluded(layer) else "NVFP4"
        asked = [layer]
        if layer.endswith(".experts"):  # as CompressedTensorsMoEMethod.get_moe_method asks
            asked = [f"{layer}.0.{part}_proj" for part in ("gate", "up", "down")]
        schemes = [read.get_scheme_dict(torch.nn.Module(), name) for name in asked]
    except ValueError:  # some but not all parts of a fused layer
        return vllm_names.DISPUTED
    if any(scheme != schemes[0] for scheme in schemes):  # it raises there
        return vllm_names.DISPUTED
    return schemes[0] and schemes[0]["format"]


def compare(config, modules, architecture):
    body, head = (loaded(config, model) for model in engine_models(architecture))
    ours = vllm_names.taken(config, modules)
    theirs = {
        layer: says(head if layer.startswith("mtp.") or layer == "lm_head" else body, layer)
        for layer in ours
    }
    assert theirs == ours
    return ours


@pytest.mark.parametrize("variant", recipe.names())
def test_every_variant(checkpoint, variant):
    """Each layer is taken for what is stored, and there are layers of both kinds."""
    config, modules, architecture = checkpoint(variant)
    found = compare(config, modules, architecture)
    assert {None} < set(found.values())
    assert vllm_names.mistaken(config, modules) == []


@pytest.mark.parametrize("ignore", MODELOPT.values(), ids=MODELOPT)
def test_modelopt_lists(checkpoint, ignore):
    config, modules, architecture = checkpoint(FLAGSHIP)
    compare({**config, "ignore": ignore}, modules, architecture)


@pytest.mark.parametrize("variant", [MIXED, BASELINE])
@pytest.mark.parametrize("ignore", COMPRESSED.values(), ids=COMPRESSED)
def test_compressed_tensors_lists(checkpoint, variant, ignore):
    config, modules, architecture = checkpoint(variant)
    compare(
        {**config, "ignore": config["ignore"] if ignore is None else ignore}, modules, architecture
    )


def test_published_globs_miss_the_tower(checkpoint):
    """Why the recipe does not have the card's first glob: vLLM would quantize the tower."""
    config, modules, _ = checkpoint("qwen36-27b-vlm-cascade-mtp")
    wrong = vllm_names.mistaken({**config, "ignore": MODELOPT["published globs"]}, modules)
    assert "visual.blocks.0.attn.qkv" in wrong
    assert all(name.startswith("visual.") for name in wrong)


def test_schemes_are_those_that_vllm_has_kernels_for(checkpoint):
    """Both groups resolve to W4A4 NVFP4 and W8A8 FP8 with dynamic inputs."""
    from vllm.model_executor.layers.quantization.compressed_tensors.compressed_tensors import (
        CompressedTensorsConfig as Config,
    )

    config, _, architecture = checkpoint(MIXED)
    read = loaded(config, engine_models(architecture)[0])
    layer = "language_model.model.layers.1"
    import torch

    experts = read.get_scheme_dict(torch.nn.Module(), f"{layer}.mlp.experts.0.down_proj")
    assert Config._is_nvfp4_format(experts["weights"])
    assert Config._is_nvfp4_format(experts["input_activations"])
    attention = read.get_scheme_dict(torch.nn.Module(), f"{layer}.self_attn.qkv_proj")
    assert Config._is_fp8_w8a8(attention["weights"], attention["input_activations"])
    assert attention["input_activations"].dynamic
