"""The trained stand-ins are what the recipes take them for."""

import pytest
from conftest import MIXED, without_head

from forge.core import canonical
from forge.inputs import standin
from forge.recipes import recipe
from forge.tensors import tensorfile
from forge.tensors.plan import head_source, make_plan

STANDINS = {
    card.parent.name: card.with_name("checkpoint")
    for card in sorted(standin.ROOT.glob("*/standin.toml"))
}
MOE = STANDINS["qwen36-moe"]
TUNED = "carnice-v2-27b-text-mtp"  # takes the head from a donor where its base has none


def test_there_is_one_of_each_architecture():
    assert {recipe.find(name).standin for name in recipe.names()} == STANDINS.keys()


@pytest.mark.parametrize("checkpoint", STANDINS.values(), ids=STANDINS)
def test_small_and_bf16(checkpoint):
    assert sum(file.stat().st_size for file in checkpoint.iterdir()) <= 16 << 20
    assert {"BF16"} == {t.dtype for t in tensorfile.read_checkpoint(checkpoint).values()}


@pytest.mark.parametrize("variant", recipe.names())
def test_a_recipe_names_every_tensor_of_its_standin(variant):
    """The plan refuses a tensor that no rule names, or two, and a head that is not the declared."""
    wanted = recipe.find(variant)
    files = standin.checkpoint(wanted, wanted.base.files, standin.ROOT).take()
    folder = files["config.json"].path.parent
    assert make_plan(wanted, tensorfile.read_checkpoint(folder)).quantized


def test_standins_share_their_vocabulary():
    for name in ("tokenizer.json", "vocab.json", "merges.txt", "chat_template.jinja"):
        assert len({canonical.sha256_file(folder / name) for folder in STANDINS.values()}) == 1


def test_experts_are_fused_as_published():
    """Gate above up, experts first, no `.weight`; the head has 19 tensors, not one an expert."""
    config = canonical.read(MOE / "config.json")["text_config"]
    experts, hidden = config["num_experts"], config["hidden_size"]
    wide = config["moe_intermediate_size"]
    tensors = tensorfile.read_checkpoint(MOE)
    layers = [f"model.language_model.layers.{number}" for number in range(4)]
    for layer in [*layers, "mtp.layers.0"]:
        fused = f"{layer}.mlp.experts"
        assert (experts, 2 * wide, hidden) == tensors[f"{fused}.gate_up_proj"].shape
        assert (experts, hidden, wide) == tensors[f"{fused}.down_proj"].shape
    head = {name for name in tensors if name.startswith("mtp.")}
    assert len(head) == 19
    assert head == set(recipe.find(MIXED).mtp.tensors)


def test_a_copy_without_its_head_needs_a_donor(tmp_path):
    dense = STANDINS["qwen36-dense"]
    there = tensorfile.read_checkpoint(dense)
    left = tensorfile.read_checkpoint(without_head(dense, tmp_path / "headless"))

    assert {name for name in there if not name.startswith("mtp.")} == left.keys()
    assert all(there[name].read() == tensor.read() for name, tensor in left.items())
    assert head_source(recipe.find(TUNED), there) == "base"
    assert head_source(recipe.find(TUNED), left) == "donor"


@pytest.mark.libraries
def test_every_expert_reads_calibration_text():
    """An expert that no token reached would have no input maximum. Even shares are 12.5 %."""
    import torch
    from transformers import AutoTokenizer, Qwen3_5MoeForConditionalGeneration

    model, loading = Qwen3_5MoeForConditionalGeneration.from_pretrained(
        MOE, dtype=torch.bfloat16, output_loading_info=True
    )
    assert not any(loading.values())
    tokenizer = AutoTokenizer.from_pretrained(MOE)
    chosen = [torch.zeros(8) for _ in range(4)]
    for file in standin.corpus("calibration", standin.ROOT, 4).take().values():
        ids = tokenizer(file.path.read_text(encoding="utf-8"), return_tensors="pt")["input_ids"]
        with torch.no_grad():
            routed = model(input_ids=ids, output_router_logits=True).router_logits
        for layer, logits in enumerate(routed):
            chosen[layer] += torch.bincount(logits.topk(2).indices.flatten(), minlength=8)
    for layer, counts in enumerate(chosen):
        assert (counts / counts.sum()).min() > 0.03, (layer, counts)
