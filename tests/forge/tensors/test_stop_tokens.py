"""What a model's files say of the tokens that end an answer agrees, or the base is refused."""

import json
from pathlib import Path

import pytest

from forge.core import checkout
from forge.core.errors import BaseError
from forge.tensors import stop_tokens
from forge.tensors.family import Config

STANDINS = checkout.ROOT / "build/standins"
CONFIG = {"text_config": {"vocab_size": 100, "eos_token_id": 3}}
END = {"eos_token": "<end>"}


def stops(files, config=None):
    data = {name: json.dumps(value).encode() for name, value in files.items()}
    found = Config(path=Path("base/config.json"), data=config or CONFIG)
    return stop_tokens.require(data.get, found)


@pytest.mark.parametrize("standin", ["qwen36-dense", "qwen36-moe"])
def test_standins_stop_where_a_turn_and_where_a_text_ends(standin):
    folder = STANDINS / standin / "checkpoint"
    config = Config(
        path=folder / "config.json", data=json.loads((folder / "config.json").read_bytes())
    )
    assert len(stop_tokens.require(lambda name: (folder / name).read_bytes(), config)) == 2


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"generation_config.json": {}},
        {"generation_config.json": {"eos_token_id": None}},
        {"tokenizer_config.json": END},
    ],
)
def test_what_is_not_said_contradicts_nothing(files):
    assert stops(files) == ()


@pytest.mark.parametrize(
    "tokenizer",
    [
        {},
        {"eos_token": None},
        END,  # of which no number is told
        END | {"added_tokens_decoder": {"5": {"content": "<end>"}}},
        {"eos_token": {"content": "<end>"}, "added_tokens_decoder": {"5": {"content": "<end>"}}},
    ],
)
def test_stops_of_one_story(tokenizer):
    files = {"generation_config.json": {"eos_token_id": [5, 3]}, "tokenizer_config.json": tokenizer}
    assert stops(files) == (5, 3)


@pytest.mark.parametrize(
    ("named", "told"),
    [
        (100, "is [100], and the model has the tokens 0 to 99"),
        (-1, "is [-1], and the model has"),
        (True, "is True, which is no number of a token"),
        ([3, "3"], "which is no number of a token"),
        ([], "is [], which is no number of a token"),
        (4, "is [4], in config.json it is [3]: they have none in common"),
    ],
)
def test_stops_that_contradict_the_config(named, told):
    with pytest.raises(BaseError) as caught:
        stops({"generation_config.json": {"eos_token_id": named}})
    assert str(caught.value).startswith("base/generation_config.json: eos_token_id ")
    assert told in str(caught.value)


def test_stops_of_a_model_without_a_part_for_text():
    with pytest.raises(BaseError, match="the tokens 0 to 9"):
        stops({"generation_config.json": {"eos_token_id": 10}}, {"vocab_size": 10})


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer_config.json": END | {"added_tokens_decoder": {"7": {"content": "<end>"}}}},
        {
            "tokenizer_config.json": END,
            "tokenizer.json": {"added_tokens": [{"id": 7, "content": "<end>"}]},
        },
    ],
)
def test_the_end_of_a_turn_must_be_among_them(files):
    with pytest.raises(BaseError, match=r"is \[3\] and lacks 7, the tokenizer's '<end>'"):
        stops({"generation_config.json": {"eos_token_id": 3}, **files})


@pytest.mark.parametrize("data", [b"{", b"[]", b'{"a": 1, "a": 2}', b"\xef\xbb\xbf{}"])
@pytest.mark.parametrize("name", ["generation_config.json", "tokenizer_config.json"])
def test_files_that_are_no_json(name, data):
    files = {"generation_config.json": b'{"eos_token_id": 3}', name: data}
    with pytest.raises(
        BaseError, match=f"base/{name}: (begins with a|is no JSON|must hold a JSON ob)"
    ):
        stop_tokens.require(files.get, Config(path=Path("base/config.json"), data=CONFIG))
