"""Families say which tensors an architecture stores: their names, shapes and dtypes."""

from dataclasses import replace
from math import prod
from pathlib import Path

import pytest
from family_configs import STANDINS, change, published, small

from forge.core.errors import BaseError
from forge.recipes import recipe
from forge.tensors import family, tensorfile
from forge.tensors.family import Config, evaluate


def shapes(config: Config) -> dict[str, tuple[int, ...]]:
    expected = family.find(config).expected(config)
    return {name: one.shape for name, one in expected.items()}


@pytest.mark.parametrize("model_type", STANDINS)
def test_a_stand_in_stores_what_its_family_says(model_type):
    config = small(model_type)
    stored = tensorfile.read_checkpoint(config.path.parent)
    assert shapes(config) == {name: one.shape for name, one in stored.items()}
    expected = family.find(config).expected(config)
    assert all(stored[name].dtype in one.dtypes for name, one in expected.items())


def test_the_published_27b_has_the_tensors_and_bytes_that_are_known_of_it():
    """Facts of the published checkpoint: its vision tower, its head, its parameters."""
    found = shapes(published("qwen3_5"))
    head = {name: shape for name, shape in found.items() if name.startswith("mtp.")}
    assert sum(name.startswith("model.visual.") for name in found) == 333
    assert len(head) == 15
    assert 2 * sum(map(prod, head.values())) // 10**5 == 8493  # BF16, in tenths of a MB
    assert 2 * sum(map(prod, found.values())) == 55_562_855_904


def test_the_head_of_the_published_35b_has_19_tensors():
    assert sum(name.startswith("mtp.") for name in shapes(published("qwen3_5_moe"))) == 19


@pytest.mark.parametrize("variant", recipe.names())
def test_every_recipe_is_of_a_family(variant):
    """Its architecture is one of a family's, and its head has that family's tensors."""
    wanted = recipe.find(variant)
    (known,) = (
        one for one in map(family.load, family.names()) if wanted.architecture in one.architectures
    )
    names = known.expected(published(known.model_type))
    assert {name for name in names if name.startswith(known.head)} == set(wanted.mtp.tensors)


def test_the_head_may_have_other_layers_than_the_config_says():
    """Where a donor gives the head, its config says how many layers the head has."""
    config = change(small("qwen3_5"), text_config={"mtp_num_hidden_layers": 0})
    known = family.find(config)
    assert not any(name.startswith("mtp.") for name in known.expected(config))
    assert shapes(small("qwen3_5")).keys() == known.expected(config, head_layers=1).keys()


def test_what_may_be_absent_hangs_on_the_config():
    config = small("qwen3_5")
    tied = replace(config, data=config.data | {"tie_word_embeddings": True})
    known = family.find(config)
    assert not any(one.optional for one in known.expected(config).values())
    assert [name for name, one in known.expected(tied).items() if one.optional] == [
        known.tied.output
    ]
    assert (known.is_tied(config), known.is_tied(tied)) == (False, True)


def test_a_bias_is_there_where_the_config_says_so():
    biased = change(small("qwen3_5"), text_config={"attention_bias": True})
    added = shapes(biased).keys() - shapes(small("qwen3_5")).keys()
    assert len(added) == 2 * 4  # of the layer with full attention and of the head


@pytest.mark.parametrize(
    ("part", "key", "value", "fault"),
    [
        ("text_config", "hidden_size", None, "text_config.hidden_size is null"),
        ("text_config", "hidden_size", True, "text_config.hidden_size is true"),
        ("text_config", "vocab_size", 2.5, "text_config.vocab_size is 2.5"),
        ("text_config", "mtp_num_hidden_layers", "one", 'mtp_num_hidden_layers is "one"'),
        ("vision_config", "depth", -1, "vision_config.depth is -1"),
        ("text_config", "layer_types", None, "layer_types must list the kind of each"),
        ("text_config", "layer_types", ["dense"] * 4, "layer_types must list the kind of each"),
        ("text_config", "num_hidden_layers", 3, "lists 4 layer(s), text_config.num_hidden_l"),
    ],
)
def test_a_config_that_gives_no_shapes_is_refused_by_its_key(part, key, value, fault):
    config = change(small("qwen3_5"), **{part: {key: value}})
    with pytest.raises(BaseError) as refused:
        shapes(config)
    assert str(refused.value).startswith(f"{config.path}: ")
    assert fault in str(refused.value)


@pytest.mark.parametrize("model_type", ["llama", None, ["qwen3_5"]])
def test_an_unknown_family_is_refused_with_those_there_are(model_type):
    with pytest.raises(BaseError, match="known are qwen3_5, qwen3_5_moe"):
        family.find(Config(path=Path("config.json"), data={"model_type": model_type}))


def test_expressions_have_integers_names_and_four_operators():
    assert evaluate("(a + 2) * b // 3 - 1", {"a": 4, "b": 5}) == 9


@pytest.mark.parametrize(
    "expression", ["a ** 9", "f(1)", "a.real", "1.5", "True", "c", "-a", "[a]", "a / 2"]
)
def test_expressions_have_nothing_else(expression):
    with pytest.raises(ValueError, match="is no size, integer"):
        evaluate(expression, {"a": 4})


@pytest.mark.libraries
@pytest.mark.parametrize("sizes", [small, published])
@pytest.mark.parametrize("model_type", family.names())
def test_transformers_builds_the_same_tensors(model_type, sizes):
    """Both ways, but for the head, for which transformers has no module."""
    import torch
    import transformers
    from transformers import AutoConfig

    config = sizes(model_type)
    known = family.load(model_type)
    values = {key: value for key, value in config.data.items() if key != "model_type"}
    with torch.device("meta"):
        model = getattr(transformers, known.architectures[0])._from_config(
            AutoConfig.for_model(model_type, **values)
        )
    built = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    expected = {name: one.shape for name, one in known.expected(config).items()}
    assert built == {name: shape for name, shape in expected.items() if name[:4] != known.head}
