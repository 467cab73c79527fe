"""Every recipe through every step but the forward passes, on a small base of its architecture.

What a recipe says is what is stored: that is the structural assay's to tell. Neither torch nor an
engine is needed, so all of them take seconds.
"""

from pathlib import Path

import pytest
from assay_edits import listed
from conftest import FLAGSHIP, MIXED, base_arrays, build_small

from assay.checks import structure
from forge.core import canonical
from forge.core.errors import NotReadyError, UnpinnedError
from forge.recipes import catalogue, recipe
from forge.tensors import tensorfile

ROOT = Path(__file__).parents[1]
VARIANTS = recipe.names()


def sums(built):
    return {path.name: canonical.sha256_file(path) for path in sorted(built.checkpoint.iterdir())}


@pytest.mark.parametrize("variant", VARIANTS)
def test_structure(small, variant):
    built = small(variant)
    checks = structure.run(
        built.made, built.checkpoint, built.results["fetch"], listed(built.checkpoint)
    ).checks
    assert [check.problem for check in checks if not check.passed] == []
    assert all(check.measured for check in checks)


@pytest.mark.parametrize("variant", VARIANTS)
def test_two_builds_give_the_same_bytes(small, variant):
    assert sums(small(variant)) == sums(small(variant, again=True))


def test_there_are_the_ten_of_the_family():
    assert {
        "carnice-v2-27b-text-mtp",
        "huihui-qwen36-27b-abliterated-text-mtp",
        "huihui-qwen36-27b-abliterated-vlm-mtp",
        "qwen36-27b-nvfp4",
        "qwen36-27b-text-mtp",
        "qwen36-27b-vlm-cascade-mtp",
        "qwen36-27b-vlm-mixedcal",
        FLAGSHIP,
        MIXED,
        "qwen36-35b-a3b-nvfp4-mtp",
    } <= set(VARIANTS)


def stored(small, variant):
    return tensorfile.read_checkpoint(small(variant).checkpoint)


def quantization(small, variant):
    return canonical.read(small(variant).checkpoint / "config.json")["quantization_config"]


def test_text_only_has_no_vision_tower(small):
    assert any(name.startswith("model.visual.") for name in stored(small, FLAGSHIP))
    text = stored(small, "qwen36-27b-text-mtp")
    assert not any(name.startswith("model.visual.") for name in text)
    assert "mtp.fc.weight" in text


def test_head_dropped_on_purpose(small):
    assert not any(name.startswith("mtp.") for name in stored(small, "qwen36-27b-nvfp4"))
    assert not (small("qwen36-27b-nvfp4").checkpoint / "model-mtp.safetensors").exists()


def test_head_of_a_base_that_has_one_and_of_one_that_has_none(small, tmp_path):
    """The base's own head goes before the donor's."""
    variant = "carnice-v2-27b-text-mtp"
    arrays = base_arrays(variant=variant)
    own, donated = arrays["mtp.fc.weight"], base_arrays(9)["mtp.fc.weight"]
    assert own.tobytes() == stored(small, variant)["mtp.fc.weight"].read()
    headless = {name: array for name, array in arrays.items() if not name.startswith("mtp.")}
    built = build_small(tmp_path, headless, recipe.find(variant))
    found = tensorfile.read_checkpoint(built.checkpoint)["mtp.fc.weight"].read()
    assert donated.tobytes() == found
    checks = structure.run(
        built.made, built.checkpoint, built.results["fetch"], listed(built.checkpoint)
    ).checks
    assert all(check.passed for check in checks)


def test_kv_cache_is_declared_in_both_configs_and_stored_nowhere(small):
    variant = "qwen36-27b-vlm-mixedcal"
    scheme = quantization(small, variant)["kv_cache_scheme"]
    assert scheme == {"dynamic": False, "num_bits": 8, "type": "float"}
    outer = canonical.read(small(variant).checkpoint / "hf_quant_config.json")
    assert outer["quantization"]["kv_cache_quant_algo"] == "FP8"
    assert not any(name.endswith(("k_scale", "v_scale")) for name in stored(small, variant))
    assert "kv_cache_scheme" not in quantization(small, FLAGSHIP)


def test_published_globs_are_the_ignore_list(small):
    globs = ["*visual*", "*linear_attn.conv1d*", "*lm_head*", "*mtp*"]
    assert globs == quantization(small, "qwen36-27b-vlm-cascade-mtp")["ignore"]


def test_mixed_precision(small):
    """NVFP4 experts one by one, FP8 attention and shared experts, a group of targets each."""
    config = quantization(small, MIXED)
    assert config["format"] == "mixed-precision"
    assert [group["format"] for group in config["config_groups"].values()] == [
        "nvfp4-pack-quantized", "float-quantized",
    ]  # fmt: skip
    tensors = stored(small, MIXED)
    layer = "model.language_model.layers.1"
    for expert in range(3):
        for part in ("gate_proj", "up_proj", "down_proj"):
            assert f"{layer}.mlp.experts.{expert}.{part}.weight_packed" in tensors
    assert tensors[f"{layer}.self_attn.q_proj.weight"].dtype == "F8_E4M3"
    assert tensors[f"{layer}.self_attn.q_proj.weight_scale"].shape == (64, 1)
    assert f"{layer}.self_attn.q_proj.input_global_scale" not in tensors
    assert tensors["mtp.layers.0.mlp.experts.gate_up_proj"].dtype == "BF16"
    assert len([name for name in tensors if name.startswith("mtp.")]) == 19
    assert not (small(MIXED).checkpoint / "hf_quant_config.json").exists()


def test_base_template_stays_where_the_recipe_has_none(small):
    texts = {
        variant: (small(variant).checkpoint / "chat_template.jinja").read_text(encoding="utf-8")
        for variant in (FLAGSHIP, "qwen36-27b-text-mtp")
    }
    assert texts == {FLAGSHIP: "of the recipe", "qwen36-27b-text-mtp": "of the base"}


def test_the_page_has_the_table():
    """Written by `python -m forge list --markdown`."""
    page = (ROOT / "docs/variants.md").read_text(encoding="utf-8")
    assert catalogue.table() in page


def test_the_list_says_who_is_ready():
    """All but two, each with its reason; a real build of these two is refused for it."""
    waiting = {name: catalogue.readiness(recipe.find(name)) for name in VARIANTS}
    assert {name: why for name, why in waiting.items() if why != "ready"} == {
        "carnice-v2-27b-text-mtp": "not ready: the base's tensors may carry a repeated "
        "`language_model.` prefix, and recipes cannot rename tensors yet",
        "qwen36-27b-vlm-cascade-mtp": "not ready: no commit is pinned for base",
    }
    assert catalogue.line(recipe.find(FLAGSHIP)).startswith(f"{FLAGSHIP}  ready; base: Qwen/")
    recipe.find(FLAGSHIP).require_ready()
    with pytest.raises(NotReadyError, match=r"repeated `language_model\.` prefix"):
        recipe.find("carnice-v2-27b-text-mtp").require_ready()
    with pytest.raises(UnpinnedError, match=r"base\.revision of natfii/"):
        recipe.find("qwen36-27b-vlm-cascade-mtp").require_ready()


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_has_its_processors(variant):
    """From the base, or from the donor where the base's repository has none."""
    wanted = recipe.find(variant)
    processors = {"preprocessor_config.json", "video_preprocessor_config.json"}
    assert processors <= {*wanted.base.files, *wanted.lent}
    assert set(wanted.lent) == (processors if variant.startswith("carnice") else set())


def test_an_eleventh_is_one_file(tmp_path, monkeypatch):
    """A recipe of nobody's: FP8 attention, an NVFP4 MLP, all else kept. No code knows it."""
    text = (recipe.VARIANTS / "qwen36-27b-nvfp4.toml").read_text(encoding="utf-8")
    first, *rest = text.split("[[quantize]]")
    eleventh = "[[quantize]]".join([first, *rest[2:]])
    eleventh += """
[[quantize]]
format = "fp8"
modules = ["model.language_model.layers.*.self_attn.*"]
"""
    eleventh = (
        eleventh.replace(
            '  "model.language_model.layers.*.self_attn.q_norm.weight",\n'
            '  "model.language_model.layers.*.self_attn.k_norm.weight",\n',
            "",
        )
        .replace('self_attn.*"]', 'self_attn.o_proj"]')
        .replace("{ nvfp4 = 0.2 }", "{ nvfp4 = 0.2, fp8 = 0.07 }")
        + """
[[keep]]
why = "a test"
tensors = [
  "model.language_model.layers.*.self_attn.q_norm.weight",
  "model.language_model.layers.*.self_attn.k_norm.weight",
  "model.language_model.layers.*.self_attn.q_proj.weight",
  "model.language_model.layers.*.self_attn.k_proj.weight",
  "model.language_model.layers.*.self_attn.v_proj.weight",
]
"""
    )
    monkeypatch.setattr(recipe, "VARIANTS", tmp_path)
    (tmp_path / "the-eleventh.toml").write_text(eleventh, encoding="utf-8")
    assert recipe.names() == ["the-eleventh"]
    variant = recipe.find("the-eleventh")
    monkeypatch.undo()
    built = build_small(tmp_path / "build", base_arrays(), variant)
    checks = structure.run(
        built.made, built.checkpoint, built.results["fetch"], listed(built.checkpoint)
    ).checks
    assert [check.problem for check in checks if not check.passed] == []
    tensors = tensorfile.read_checkpoint(built.checkpoint)
    prefix = "model.language_model.layers.1"
    assert tensors[f"{prefix}.self_attn.o_proj.weight"].dtype == "F8_E4M3"
    assert tensors[f"{prefix}.self_attn.q_proj.weight"].dtype == "BF16"
    assert tensors[f"{prefix}.mlp.up_proj.weight_packed"].dtype == "U8"
    assert "the-eleventh" in catalogue.line(variant)
