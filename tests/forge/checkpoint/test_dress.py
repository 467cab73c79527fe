"""What lies beside the weights: carried over, edited as the recipe says, and nothing else."""

import json
from dataclasses import replace

import pytest

from forge.checkpoint import dress
from forge.core import canonical
from forge.core.errors import DressError
from forge.pipeline import work_on
from forge.tensors import configs, tensor_list, tensorfile


def read(built, name):
    return json.loads((built.checkpoint / name).read_text(encoding="utf-8"))


def edit_base(built, name, data):
    canonical.write(built.inputs / "base" / name, data)


def fetched_again(built):
    """What the step is given, had the inputs been fetched as they are now."""
    digests = {
        path.relative_to(built.inputs).as_posix(): canonical.sha256_file(path)
        for path in built.inputs.rglob("*")
        if path.is_file()
    }
    fetched = replace(built.results["fetch"], digests=digests)
    return work_on(built.job, {**built.results, "fetch": fetched})


def test_both_ignore_lists_are_equal(built):
    inner = read(built, "config.json")["quantization_config"]["ignore"]
    outer = read(built, "hf_quant_config.json")["quantization"]["exclude_modules"]
    assert inner == outer == sorted(inner)
    assert {"mtp.fc", "lm_head", "model.visual.blocks.0.attn.qkv"} < set(inner)
    assert not any("norm" in name or name.endswith("q_proj") for name in inner if "mtp" not in name)


def test_index_covers_body_and_head(built):
    index = read(built, tensorfile.INDEX)
    tensors = tensorfile.read_checkpoint(built.checkpoint)
    assert index["weight_map"].keys() == tensors.keys()
    assert index["weight_map"]["mtp.fc.weight"] == "model-mtp.safetensors"
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in tensors.values())


def test_template_and_stripped_keys(built):
    assert (built.checkpoint / "chat_template.jinja").read_text(encoding="utf-8") == "of the recipe"
    assert read(built, "tokenizer_config.json") == {"model": 1}


def test_shards_are_shared_with_the_store(built):
    for step in ("quantize", "graft"):
        for name in built.results[step].digests.keys() - {tensor_list.FILE}:
            assert (built.checkpoint / name).samefile(built.results[step].files / name)


@pytest.mark.libraries
def test_modelopt_reads_the_config_as_its_own(built):
    """Field by field what modelopt's own converter makes of the same hf_quant_config.json."""
    from modelopt.torch.export import convert_hf_config as convert

    outer = read(built, "hf_quant_config.json")
    inner = read(built, "config.json")["quantization_config"]
    assert convert.convert_hf_quant_config_format(outer) | {"quant_method": "modelopt"} == inner


@pytest.mark.parametrize(
    "name",
    [
        "base/vocab.json",
        "base/config.json",
        "base/tokenizer_config.json",
        "template/chat_template.jinja",
    ],
)
def test_file_that_changed_since_it_was_fetched(built, tmp_path, name):
    """Carried over, edited, stripped or put in place of the base's: each has its digest."""
    path = built.inputs / name
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(DressError, match=rf"{path.name}: has sha256 .*, fetched was "):
        dress.run(work_on(built.job, built.results), tmp_path / "out")


def test_digests_of_all_files_are_taken_while_they_are_written(built, tmp_path):
    (tmp_path / "out").mkdir()
    found = dress.run(work_on(built.job, built.results), tmp_path / "out")
    assert found == {
        path.name: canonical.sha256_file(path) for path in (tmp_path / "out").iterdir()
    }


@pytest.mark.parametrize(
    ("ignore", "layer"),
    [
        (("*model.visual*", "*lm_head*", "*mtp*"), r"visual\.blocks\.0\.attn\.proj"),
        (("*visual*", "*lm_head*", "*mtp*", "*o_proj*"), r"self_attn\.o_proj"),
    ],
)
def test_ignore_list_that_vllm_misreads(built, tmp_path, ignore, layer):
    """The first is the published one: vLLM 0.32 calls the tower `visual.`."""
    recipe = built.job.recipe
    changed = recipe.model_copy(
        update={"layout": recipe.layout.model_copy(update={"ignore": ignore})}
    )
    with pytest.raises(DressError, match=rf"\d+ layer.*{layer}.*Correct layout.ignore"):
        dress.run(work_on(replace(built.job, recipe=changed), built.results), tmp_path / "out")


def test_lists_that_a_reader_of_the_recipe_misreads(built, tmp_path):
    """SGLang quantizes no attention of ModelOpt's checkpoints, so a recipe cannot promise it."""
    recipe = built.job.recipe
    gates = recipe.gates.model_copy(update={"readers": ("sglang",)})
    changed = recipe.model_copy(update={"gates": gates})
    with pytest.raises(DressError, match=r"sglang takes \d+ layer.*linear_attn\.in_proj_ba"):
        dress.run(work_on(replace(built.job, recipe=changed), built.results), tmp_path / "out")


def test_malformed_json_names_the_file(built, tmp_path):
    (built.inputs / "base" / "tokenizer_config.json").write_text("{", encoding="utf-8")
    with pytest.raises(DressError, match=r"tokenizer_config\.json: cannot be read as JSON"):
        dress.run(fetched_again(built), tmp_path / "out")


def test_strip_of_a_file_that_is_not_there(built, tmp_path):
    (built.inputs / "base" / "tokenizer_config.json").unlink()
    with pytest.raises(DressError, match="strip names tokenizer_config.json"):
        dress.run(fetched_again(built), tmp_path / "out")


def test_what_the_base_has_beside_the_weights_is_carried_over(built, tmp_path):
    """Whatever its name is, also within a folder; a processor may be of transformers 5."""
    names = ("processor_config.json", "special_tokens_map.json", "added_tokens.json",
             "additional_chat_templates/tool_use.jinja")  # fmt: skip
    for name in names:
        path = built.inputs / "base" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f'{{"name": "{name}"}}', encoding="utf-8")
    (tmp_path / "out").mkdir()
    digests = dress.run(fetched_again(built), tmp_path / "out")
    for name in names:
        assert (tmp_path / "out" / name).read_bytes() == (built.inputs / "base" / name).read_bytes()
        assert digests[name] == canonical.sha256_file(tmp_path / "out" / name)


def test_ignored_modules_are_those_with_a_plain_matrix(built):
    tensors = tensorfile.read_checkpoint(built.checkpoint)
    ignored = configs.ignored_modules(tensors.values())
    assert all(len(tensors[f"{module}.weight"].shape) >= 2 for module in ignored)
    assert not any(f"{module}.weight_scale" in tensors for module in ignored)
