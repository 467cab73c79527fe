"""A recipe file is taken whole and strict, or refused with file, key and value."""

import re

import pytest

from forge.core.errors import NotReadyError, RecipeError, UnpinnedError
from forge.recipes import recipe

GOOD = (recipe.VARIANTS / "qwen36-27b-vlm-mtp.toml").read_text(encoding="utf-8")
UNSHARED = 'format = "nvfp4"\nmodules = ["model.language_model.layers.*.self_attn.o_proj"]'
MODELOPT = 'engine = "modelopt"\nattention = "sdpa"'
MTP_GATES = "mtp = { min_drafted = 200 }"
LLM_COMPRESSOR = 'engine = "llm-compressor"\nattention = "eager"'
COMMIT = "6a9e13bd6fc8f0983b9b99948120bc37f49c13e9"


def load(tmp_path, text):
    path = tmp_path / "variant.toml"
    path.write_text(text, encoding="utf-8")
    return recipe.load(path)


def test_every_variant_loads():
    assert recipe.names()
    for name in recipe.names():
        assert name == recipe.find(name).name


@pytest.mark.parametrize(
    ("old", "new", "key", "value"),
    [
        ("schema_version = 1", "schema_version = 1\nspeed = 3", "speed", "3"),
        (f'revision = "{COMMIT}"', 'revision = "main"', "base.revision", "main"),
        (f'revision = "{COMMIT}"', "", "base.revision", "files"),
        (f'revision = "{COMMIT}"', f'revision = "{COMMIT[:39]}"', "base.revision", COMMIT[:39]),
        ('format = "nvfp4"', 'format = "fp4"', "quantize.0.format", "fp4"),
        ('format = "nvfp4"', 'format = "fp8"', "quantize.0", "shared_input"),
        (UNSHARED, UNSHARED.replace("nvfp4", "fp8"), "whole file", "use 'compressed-tensors'"),
        ("{ nvfp4 = 0.2 }", "{ fp8 = 0.07 }", "whole file", "exactly the formats of [[quantize]]"),
        ("{ nvfp4 = 0.2 }", "{ nvfp4 = nan }", "gates.max_error.nvfp4", "finite"),
        ("{ nvfp4 = 0.2 }", "{ nvfp4 = 1.0 }", "gates.max_error.nvfp4", "less than 1"),
        ("[serve.args]", '[serve.args]\ntensor-parallel-size = "two"', "serve.args", "a count"),
        ("[serve.args]", "[serve.args]\ntensor-parallel-size = 0", "serve.args", "a count"),
        ("max_ratio = 1.1", "max_ratio = inf", "perplexity.max_ratio", "finite"),
        ("min_picture_shift = 0.05", "", "whole file", "`gates.min_picture_shift` must be given"),
        (MTP_GATES, "", "whole file", "`gates.mtp` must be given exactly when a head is served"),
        ("near = 0.25", "near = 1.5", "gates.ties", "`near` must not be above"),
        ("widest = 1.0", "widest = 5.0", "gates.ties.widest", "less than or equal to 1"),
        ("full_size = { echoes = 6, windows = 400 }", "", "gates.full_size", "Field required"),
        (", windows = 400", "", "gates.full_size.windows", "Field required"),
        ("samples = {", "other = {", "gates.samples", "Field required"),
        ("texts = 10", "texts = 1", "gates.samples.texts", "greater than 1"),
        ("windows = 16", "windows = 0", "gates.samples.windows", "greater than 0"),
        ("timed = 160", "timed = 1.5", "gates.samples.timed", "valid integer"),
        ("echoes = 6", "echoes = 7", "gates.full_size.echoes", "less than or equal to 6"),
        ("echoes = 6", "echoes = 6, min_mtp_speedup = 0", "min_mtp_speedup", "greater than 0"),
        ("min_drafted = 200", "min_drafted = 0", "gates.mtp.min_drafted", "greater than 0"),
        (
            "[layout]",
            '[[fused]]\ntensors = ["x"]\nlinears = []\n\n[layout]',
            "fused.0.linears",
            "[]",
        ),
        (
            "[layout]",
            '[[fused]]\ntensors = ["x"]\nlinears = ["y"]\n\n[layout]',
            "whole file",
            "[[fused]] linears",
        ),
        (
            'attention = "sdpa"',
            'attention = "sdpa"\nall_experts = true',
            "calibration",
            "all_experts",
        ),
        ('engine = "modelopt"', 'engine = "llm-compressor"', "calibration", "eager attention"),
        (MODELOPT, LLM_COMPRESSOR, "whole file", "'compressed-tensors' stores"),
        ('rows = "joined"', "", "calibration.sets.llm.rows", "Field required"),
        ('rows = "joined"', 'rows = "packed"', "calibration.sets.llm.rows", "packed"),
        ("schema_version = 1", 'schema_version = 1\nnot_ready = ""', "not_ready", "''"),
        ("samples = 20", "samples = 0", "calibration.sets.llm.samples", "0"),
        ("samples = 20", 'samples = "20"', "calibration.sets.llm.samples", "'20'"),
        ("max_ratio = 1.1", "max_ratio = 0.5", "perplexity.max_ratio", "0.5"),
        ("acceptance_floor = [0.6]", "acceptance_floor = []", "serve", "0 values"),
        ('source = "base"', 'source = "donor"', "mtp", "donor"),
        ('"LICENSE",', '"../LICENSE",', "base.files", "../LICENSE"),
        ('"tokenizer_config.json" = ["backend"]', '"vocab.txt" = ["x"]', "strip", "vocab.txt"),
    ],
)
def test_mistakes_are_named(tmp_path, old, new, key, value):
    """The message has the file, the key and the value at fault."""
    assert old in GOOD
    with pytest.raises(RecipeError) as error:
        load(tmp_path, GOOD.replace(old, new, 1))
    message = str(error.value)
    assert "variant.toml" in message
    assert key in message
    assert value in message


def test_llm_compressor_takes_text_alone(tmp_path):
    pictured = (recipe.VARIANTS / "qwen36-27b-vlm-mixedcal.toml").read_text(encoding="utf-8")
    with pytest.raises(RecipeError, match="calibration: .* text through the whole model alone"):
        load(tmp_path, pictured.replace(MODELOPT, LLM_COMPRESSOR))


def test_missing_section(tmp_path):
    with pytest.raises(RecipeError, match=r"perplexity: Field required"):
        load(tmp_path, re.sub(r"\[perplexity\].*?\n\n", "", GOOD, flags=re.DOTALL))


def test_broken_toml(tmp_path):
    with pytest.raises(RecipeError, match="not valid TOML"):
        load(tmp_path, "[base\n")


def test_name_is_the_files(tmp_path):
    with pytest.raises(RecipeError, match="'name' is not allowed"):
        load(tmp_path, 'name = "other"\n' + GOOD)


def test_unknown_variant_lists_those_there_are():
    with pytest.raises(RecipeError, match=r"no variant '\.\./x'; there are: .*qwen36-27b-vlm-mtp"):
        recipe.find("../x")


def test_unresolved_pin_is_refused_for_a_real_build(tmp_path):
    """One line: which pin, what is known of it; and what its remedy needs."""
    text = GOOD.replace(f'revision = "{COMMIT}"', 'revision = { unresolved = "6a9e13b" }')
    with pytest.raises(UnpinnedError) as error:
        load(tmp_path, text).require_pins()
    message = str(error.value)
    assert "base.revision of Qwen/Qwen3.6-27B" in message
    assert "'6a9e13b'" in message
    assert (error.value.remedy, error.value.facts) == ("unpinned", {"variant": "variant"})
    assert "\n" not in message


def test_a_recipe_that_is_not_ready_is_refused_for_a_real_build(tmp_path):
    """One line with the recipe's own reason."""
    text = GOOD.replace("schema_version = 1", 'schema_version = 1\nnot_ready = "names differ"')
    waiting = load(tmp_path, text)
    waiting.require_pins()
    with pytest.raises(NotReadyError) as error:
        waiting.require_ready()
    message = str(error.value)
    assert "variant.toml" in message
    assert "`not_ready` says why no real build can start: names differ." in message
    assert (error.value.remedy, error.value.facts) == ("not-ready", {"variant": "variant"})
    assert "\n" not in message


def test_pictures_are_not_joined(tmp_path):
    pictured = (recipe.VARIANTS / "qwen36-27b-vlm-mixedcal.toml").read_text(encoding="utf-8")
    with pytest.raises(RecipeError, match=r"sparsetables: .* `rows` must be 'single'"):
        load(tmp_path, pictured.replace('rows = "single"', 'rows = "joined"', 1))


def test_a_file_is_lent_or_the_bases_own(tmp_path):
    carnice = (recipe.VARIANTS / "carnice-v2-27b-text-mtp.toml").read_text(encoding="utf-8")
    twice = carnice.replace('lends = ["preprocessor_config.json"', 'lends = ["config.json"')
    with pytest.raises(RecipeError, match=r"lends names 'config\.json'"):
        load(tmp_path, twice)


def test_a_donor_gives_its_config_too(tmp_path):
    """Which says how many layers the head has."""
    carnice = (recipe.VARIANTS / "carnice-v2-27b-text-mtp.toml").read_text(encoding="utf-8")
    without = carnice.replace('.index.json", "config.json"]', '.index.json"]')
    with pytest.raises(RecipeError, match=r"mtp\.donor\.files: .*must take config\.json"):
        load(tmp_path, without)


def test_nothing_mutates_a_recipe(flagship):
    with pytest.raises(ValueError, match="frozen"):
        flagship.title = "other"
