"""What an engine garbles is seen, whatever the model is worth; a model's own weakness is not."""

import json

import pytest
from conftest import of_few

from assay.serving import garbage
from forge.core import checkout
from forge.manifest import verification
from forge.manifest.probe_figures import SCRIPTS
from forge.manifest.verification import UnmeasuredError
from forge.recipes import recipe

STANDIN = checkout.ROOT / "build/standins/qwen36-dense/checkpoint"
FLAGSHIP = recipe.find("qwen36-27b-vlm-mtp")
END, OF_TEXT = 4065, 4063  # of an answer, and of a text


class Echo:
    """A client of a model that repeats what it is asked to; `spoil` is done to what is streamed."""

    def __init__(self, spoil=str, answer=None):
        self.spoil = spoil
        self.answer = answer

    def chat(self, messages, **_):
        text = self.answer or messages[0]["content"].removeprefix("Repeat this: ")
        choice = {
            "message": {"content": text, "reasoning": None},
            "finish_reason": "stop",
            "token_ids": list(text.encode()),
        }
        return {"choices": [choice]}

    def streamed_chat(self, messages, *, structured_outputs=None, **_):
        (said,) = self.chat(messages)["choices"]
        text = structured_outputs["choice"][0] if structured_outputs else said["message"]["content"]
        return [
            {"delta": {"content": self.spoil(character)}, "token_ids": list(character.encode())}
            for character in text
        ]

    def tokenize_chat(self, messages):
        assert messages[-1]["role"] == "assistant"
        return [4064, 65, END, 198, 4064, 66, END, 198]

    def completion(self, _, *, logit_bias, **__):
        ends = OF_TEXT in map(int, logit_bias) or END in map(int, logit_bias)
        reason, tokens = ("stop", 1) if ends else ("length", 8)
        return {"choices": [{"finish_reason": reason}], "usage": {"completion_tokens": tokens}}


def halved(character):
    """What a decoder writes that decodes every token by itself."""
    return character if character.isascii() else "\ufffd" * len(character.encode())


def check(name, measure, *, rehearsal=True):
    return verification.check(name, of_few(FLAGSHIP, rehearsal=rehearsal), measure)


@pytest.mark.parametrize(
    ("client", "rehearsed", "real"),
    [
        (Echo(), True, True),
        (Echo(answer="The sea is wide."), True, False),  # all that a stand-in can
        (Echo(answer="\ufffd"), True, False),
        (Echo(halved), False, False),
    ],
)
def test_scripts(client, rehearsed, real):
    for passed, rehearsal in ((rehearsed, True), (real, False)):
        one = check("smoke.scripts", lambda: garbage.scripts(client), rehearsal=rehearsal)
        assert one.passed is passed
    assert one.measured.said.keys() == SCRIPTS.keys()


def test_no_script_is_one_of_ascii():
    assert not any(character.isascii() for text in SCRIPTS.values() for character in text.split())
    assert FLAGSHIP.gates.full_size.echoes == len(SCRIPTS)


def test_streams():
    assert check("smoke.streaming", lambda: garbage.streaming(Echo())).passed
    spoiled = check("smoke.streaming", lambda: garbage.streaming(Echo(halved)))
    assert spoiled.problem.endswith("of the same tokens")
    doubled = check("smoke.streaming", lambda: garbage.streaming(Echo(lambda text: text * 2)))
    assert not doubled.passed


def generation_config(folder, **keys):
    (folder / "generation_config.json").write_text(json.dumps(keys), encoding="utf-8")
    (folder / "tokenizer.json").write_bytes((STANDIN / "tokenizer.json").read_bytes())
    return folder


@pytest.mark.parametrize(
    ("ends", "problem"),
    [
        ([END, OF_TEXT], None),
        (END, None),
        ([END, 300], "token 300 ends texts and is no special token"),
        ([OF_TEXT], f"lacks token {END}, which ends an answer"),
        ([END, 4064], "token 4064 of generation_config.json did not end a text: 'length' after 8"),
        ([], "eos_token_id is [], no token that ends a text"),
        (None, "eos_token_id is None"),
        ("4065", "eos_token_id is '4065'"),
        ([True], "eos_token_id is [True]"),
    ],
)
def test_ends(tmp_path, ends, problem):
    folder = generation_config(tmp_path, eos_token_id=ends)
    one = check("smoke.stop", lambda: garbage.stop(Echo(), checkpoint=folder))
    assert one.passed is (problem is None), one
    assert problem is None or problem in one.problem


def test_without_a_config_nothing_ends(tmp_path):
    with pytest.raises(UnmeasuredError, match="is not there, so it has no token"):
        garbage.stop(Echo(), checkpoint=tmp_path)
    (generation_config(tmp_path) / "generation_config.json").write_text("{", encoding="utf-8")
    with pytest.raises(UnmeasuredError, match="eos_token_id is None"):
        garbage.stop(Echo(), checkpoint=tmp_path)


GOOD = [-0.5, -1.5, -9.0]


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([GOOD, GOOD], None),
        ([GOOD, [-0.5, float("nan")]], "1 of 2 positions are not finite"),
        ([GOOD, [-0.5, float("-inf")]], "1 of 2 positions are not finite"),
        ([GOOD, [-0.5, -9999.0]], "1 of 2 positions are not finite"),
        ([GOOD, [0.5, -1.0]], "1 of 2 positions are not finite"),  # no probability
        ([GOOD, []], "candidates: Input should be greater than or equal to 1"),
        ([[-8.3178] * 20] * 3, "at 3 of 3 positions all tokens are equally likely"),
        ([], "positions: Input should be greater than or equal to 1"),
        ([[-0.5], [-0.1]], "one candidate a position says nothing"),
    ],
)
def test_probabilities(rows, problem):
    one = check("smoke.logprobs", lambda: garbage.look(rows))
    assert one.passed is (problem is None), one
    assert problem is None or problem in one.problem
