"""Deny by default: every tensor has exactly one rule, every pattern at least one tensor."""

import pytest

from forge import recipe, rules
from forge.errors import RecipeError


def with_changes(flagship, **changes):
    return flagship.model_copy(update=changes)


def test_groups_share_what_receives_the_same_tensor(flagship, arrays):
    plan = rules.plan(flagship, arrays)
    short = {
        tuple(module.removeprefix("model.language_model.layers.") for module in group)
        for group in plan.groups
    }
    assert short == {
        ("1.self_attn.q_proj", "1.self_attn.k_proj", "1.self_attn.v_proj"),
        ("1.self_attn.o_proj",),
        tuple(f"0.linear_attn.in_proj_{part}" for part in ("qkv", "z", "a", "b")),
        ("0.linear_attn.out_proj",),
        ("0.mlp.gate_proj", "0.mlp.up_proj"),
        ("1.mlp.gate_proj", "1.mlp.up_proj"),
        ("0.mlp.down_proj",),
        ("1.mlp.down_proj",),
    }


def test_every_tensor_is_placed_once(flagship, arrays):
    plan = rules.plan(flagship, arrays)
    placed = [*plan.keep, *plan.mtp, *(module + ".weight" for module in plan.quantized)]
    assert sorted(arrays) == sorted(placed)
    assert len(plan.mtp) == 15


def test_uncovered_tensor(flagship, arrays):
    arrays["model.language_model.layers.0.new_gate.weight"] = arrays["lm_head.weight"]
    with pytest.raises(RecipeError, match=r"no rule covers .*new_gate\.weight.* Name it"):
        rules.plan(flagship, arrays)


def test_overlapping_rules(flagship, arrays):
    extra = recipe.Keep(tensors=("model.**.q_proj.weight",), why="a test")
    with pytest.raises(RecipeError, match=r"q_proj\.weight' is covered by two rules"):
        rules.plan(with_changes(flagship, keep=(*flagship.keep, extra)), arrays)


def test_pattern_that_matches_nothing(flagship, arrays):
    extra = recipe.Keep(tensors=("model.audio.**",), why="a test")
    with pytest.raises(RecipeError, match=r"'model\.audio\.\*\*' matches no tensor"):
        rules.plan(with_changes(flagship, keep=(*flagship.keep, extra)), arrays)


def test_missing_mtp_tensor(flagship, arrays):
    del arrays["mtp.fc.weight"]
    with pytest.raises(RecipeError, match=r"declares 'mtp\.fc\.weight', which the base does not"):
        rules.plan(flagship, arrays)


def test_undeclared_mtp_tensor(flagship, arrays):
    arrays["mtp.layers.1.input_layernorm.weight"] = arrays["mtp.norm.weight"]
    with pytest.raises(RecipeError, match=r"no rule covers the tensor 'mtp\.layers\.1"):
        rules.plan(flagship, arrays)


@pytest.mark.parametrize(
    ("pattern", "name", "places"),
    [
        ("a.*.c", "a.b.c", ("b",)),
        ("a.*.c", "a.b.b.c", None),
        ("a.**", "a.b.c", ("b.c",)),
        ("a.**.c", "a.c", None),
        ("a.b", "axb", None),
    ],
)
def test_wildcards(pattern, name, places):
    """`*` is one part of a name, `**` one or more, a dot only a dot."""
    match = rules.compile_pattern(pattern).fullmatch(name)
    assert places == (match and match.groups())
