"""Deny by default: every tensor has exactly one rule, every pattern at least one tensor."""

import pytest
from conftest import base_arrays

from forge.core.errors import RecipeError
from forge.recipes import recipe
from forge.tensors.plan import compile_pattern, head_source, make_plan


def with_changes(flagship, **changes):
    return flagship.model_copy(update=changes)


def test_groups_share_what_receives_the_same_tensor(flagship, arrays):
    plan = make_plan(flagship, arrays)
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
    plan = make_plan(flagship, arrays)
    placed = [*plan.keep, *plan.mtp, *(module + ".weight" for module in plan.quantized)]
    assert sorted(arrays) == sorted(placed)
    assert len(plan.mtp) == 15


def test_uncovered_tensor(flagship, arrays):
    arrays["model.language_model.layers.0.new_gate.weight"] = arrays["lm_head.weight"]
    with pytest.raises(RecipeError, match=r"no rule covers .*new_gate\.weight.* Name it"):
        make_plan(flagship, arrays)


def test_overlapping_rules(flagship, arrays):
    extra = recipe.Keep(tensors=("model.**.q_proj.weight",), why="a test")
    with pytest.raises(RecipeError, match=r"q_proj\.weight' is covered by two rules"):
        make_plan(with_changes(flagship, keep=(*flagship.keep, extra)), arrays)


def test_pattern_that_matches_nothing(flagship, arrays):
    extra = recipe.Keep(tensors=("model.audio.**",), why="a test")
    with pytest.raises(RecipeError, match=r"'model\.audio\.\*\*' matches no tensor"):
        make_plan(with_changes(flagship, keep=(*flagship.keep, extra)), arrays)


def test_missing_mtp_tensor(flagship, arrays):
    del arrays["mtp.fc.weight"]
    with pytest.raises(RecipeError, match=r"declares 'mtp\.fc\.weight', which the base does not"):
        make_plan(flagship, arrays)


def test_undeclared_mtp_tensor(flagship, arrays):
    arrays["mtp.layers.1.input_layernorm.weight"] = arrays["mtp.norm.weight"]
    with pytest.raises(RecipeError, match=r"no rule covers the tensor 'mtp\.layers\.1"):
        make_plan(flagship, arrays)


def test_removed_tensors_are_neither_kept_nor_left(arrays):
    text = recipe.find("qwen36-27b-text-mtp")
    plan = make_plan(text, arrays)
    assert sorted(plan.removed) == sorted(n for n in arrays if n.startswith("model.visual."))
    assert not {*plan.removed} & {*plan.keep}


def test_removal_that_removes_nothing(arrays):
    bare = {name: array for name, array in arrays.items() if "visual" not in name}
    with pytest.raises(RecipeError, match=r"'model\.visual\.\*\*' matches no tensor"):
        make_plan(recipe.find("qwen36-27b-text-mtp"), bare)


@pytest.mark.parametrize("variant", ["qwen36-27b-nvfp4", "qwen36-35b-a3b-nvfp4-fp8-mtp"])
def test_calibrated_are_those_whose_inputs_have_a_scale(variant):
    """All NVFP4 linears, no FP8 linear; a group is of one format."""
    plan = make_plan(recipe.find(variant), base_arrays(variant=variant))
    nvfp4 = [name for name in plan.quantized if plan.linears[name].format.name == "nvfp4"]
    assert list(plan.calibrated) == nvfp4
    assert all(len({plan.linears[m].format.name for m in group}) == 1 for group in plan.groups)


class TestHead:
    """Where the head comes from."""

    @pytest.fixture
    def tuned(self):
        return recipe.find("carnice-v2-27b-text-mtp")

    @pytest.fixture
    def headless(self, arrays):
        return {name: array for name, array in arrays.items() if not name.startswith("mtp.")}

    def test_own_head_first(self, tuned, arrays, headless):
        assert head_source(tuned, arrays) == "base"
        assert head_source(tuned, headless) == "donor"
        assert make_plan(tuned, headless).mtp == ()

    def test_half_a_head_is_no_reason_to_take_the_donors(self, tuned, arrays):
        del arrays["mtp.fc.weight"]
        with pytest.raises(RecipeError, match=r"declares 'mtp\.fc\.weight'"):
            make_plan(tuned, arrays)

    def test_dropped(self, arrays, headless):
        baseline = recipe.find("qwen36-27b-nvfp4")
        assert head_source(baseline, arrays) is None
        assert len(make_plan(baseline, arrays).mtp) == 15
        with pytest.raises(RecipeError, match="15 missing"):
            make_plan(baseline, headless)


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
    match = compile_pattern(pattern).fullmatch(name)
    assert places == (match and match.groups())


def rules_without(flagship, module):
    """The rules of the flagship without one of the modules."""
    return [
        rule.model_copy(update={"modules": tuple(m for m in rule.modules if m != module)})
        for rule in flagship.quantize
    ]


@pytest.mark.parametrize("part", ["self_attn.k_proj", "mlp.up_proj", "linear_attn.in_proj_z"])
def test_fused_linears_under_two_rules(flagship, arrays, part):
    module = f"model.language_model.layers.*.{part}"
    alone = recipe.Quantize(modules=(module,), format="nvfp4")
    rules = (*rules_without(flagship, module), alone)
    with pytest.raises(RecipeError, match=r"global scales of their own, but engines fuse them"):
        make_plan(with_changes(flagship, quantize=rules), arrays)


def test_fused_linears_that_share_no_input(flagship, arrays):
    rules = [rule.model_copy(update={"shared_input": False}) for rule in flagship.quantize]
    with pytest.raises(RecipeError, match=r"in_proj_a.* and .*in_proj_b.*`shared_input = true`"):
        make_plan(with_changes(flagship, quantize=tuple(rules)), arrays)


def test_fused_linears_of_which_one_is_kept(flagship, arrays):
    module = "model.language_model.layers.*.mlp.up_proj"
    keep = recipe.Keep(tensors=(f"{module}.weight",), why="a test")
    changed = with_changes(
        flagship, quantize=tuple(rules_without(flagship, module)), keep=(*flagship.keep, keep)
    )
    with pytest.raises(RecipeError, match=r"is nvfp4 and .*up_proj' is not quantized, but engines"):
        make_plan(changed, arrays)
