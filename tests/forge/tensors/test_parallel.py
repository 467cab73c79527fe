"""On how many devices a checkpoint can be divided: its heads, its sizes, its blocks of scales."""

from fnmatch import fnmatchcase

import pytest
from family_configs import change, published, small

from forge.recipes import recipe
from forge.tensors import family, parallel
from forge.tensors.plan import make_plan


def found(config, variant):
    """The table of a variant of a base with this config."""
    known = family.find(config)
    plan = make_plan(recipe.find(variant), known.expected(config))
    return parallel.table(known, config, plan)


@pytest.mark.parametrize("variant", recipe.names())
def test_the_published_sizes_can_be_divided_by_eight(variant):
    architecture = recipe.find(variant).architecture
    (name,) = (n for n in family.names() if architecture in family.load(n).architectures)
    assert found(published(name), variant) == {1: [], 2: [], 4: [], 8: []}


def test_heads_that_the_devices_do_not_divide():
    config = change(published("qwen3_5"), text_config={"num_attention_heads": 12})
    told = found(config, "qwen36-27b-vlm-mtp")
    assert told[4] == []
    assert told[8][0] == "self_attn.q_proj: 12 (heads) cannot be divided by 8"


def test_key_and_value_heads_are_copied_where_there_are_more_devices():
    config = change(published("qwen3_5"), text_config={"num_key_value_heads": 2})
    assert found(config, "qwen36-27b-vlm-mtp")[8] == []
    config = change(published("qwen3_5"), text_config={"num_key_value_heads": 3})
    told = found(config, "qwen36-27b-vlm-mtp")
    assert told[2] == ["self_attn.k_proj: 3 (kv_heads) cannot be divided by 2"]


def test_a_block_of_scales_that_would_lie_on_two_devices():
    """17,424 rows of the MLP can be divided by eight, but not into whole blocks of 16."""
    config = change(published("qwen3_5"), text_config={"intermediate_size": 17424})
    told = found(config, "qwen36-27b-vlm-mtp")
    assert told[1] == []
    assert told[8] == [
        "model.language_model.layers.0.mlp.down_proj: 17424 columns cannot be divided by 8 in "
        "blocks of 16"
    ]


@pytest.mark.parametrize("name", family.names())
def test_every_matrix_is_divided_or_known_to_lie_whole_on_each_device(name):
    """So that a linear that a family gains is not forgotten."""
    known = family.load(name)
    whole = (
        "*embed_tokens", "*pos_embed", "lm_head", "*.mlp.gate", "*.shared_expert_gate", "mtp.fc",
    )  # fmt: skip
    patterns = [f"*.{linear}" for split in known.splits for linear in split.linears]
    for tensor, one in known.expected(small(name)).items():
        module = tensor.removesuffix(".weight")
        if len(one.shape) == 2:
            taken = [pattern for pattern in (*patterns, *whole) if fnmatchcase(module, pattern)]
            assert len(taken) == 1, module
