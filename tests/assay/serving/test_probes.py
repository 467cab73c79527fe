"""Each probe against answers good and bad."""

import zlib

import pytest

from assay.serving import probes
from forge.manifest import verification
from forge.recipes import recipe

FLAGSHIP = recipe.find("qwen36-27b-vlm-mtp")


def passes(name, measure):
    return verification.check(name, FLAGSHIP, measure).passed


class Answers:
    """A client whose chat gives prepared messages, one after another."""

    def __init__(self, *messages, tokens=(30, 30)):
        self.messages = list(messages)
        self.tokens = list(tokens)

    def chat(self, _, **__):
        message = self.messages.pop(0)
        choice = {
            "message": message,
            "finish_reason": "stop",
            "logprobs": {"content": [CANDIDATES]},
        }
        return {
            "choices": [choice],
            "usage": {"completion_tokens": 1, "prompt_tokens": self.tokens.pop(0)},
        }


CANDIDATES = {"top_logprobs": [{"token": "a", "logprob": -0.1}, {"token": "b", "logprob": -3.0}]}


@pytest.mark.parametrize(
    ("thinking", "message", "passed"),
    [
        (True, {"reasoning": "So.", "content": None}, True),
        (True, {"reasoning": None, "content": "Yes."}, True),
        (True, {"reasoning": "", "content": " \n"}, False),
        (False, {"reasoning": None, "content": "Yes."}, True),
        (False, {"reasoning": "So.", "content": "Yes."}, False),
        (False, {"reasoning": None, "content": ""}, False),
    ],
)
def test_an_empty_answer_fails(thinking, message, passed):
    name = f"smoke.chat.thinking_{'on' if thinking else 'off'}"
    assert passes(name, lambda: probes.chat(Answers(message), thinking=thinking)) is passed


def test_a_picture_that_changes_nothing_fails():
    """The same probabilities for red and for blue: the tower's output does not reach the model."""
    found = probes.image(Answers(*[{"content": "Red."}] * 4, tokens=(46, 46, 270, 30)))
    assert found.image_tokens == (16, 240)
    assert found.logprob_shift == 0
    assert not passes("smoke.image", lambda: found)


def test_a_larger_picture_is_more_tokens():
    """A processor that scales all pictures to one size, or an engine that cuts them."""
    found = probes.image(Answers(*[{"content": "Red."}] * 4, tokens=(94, 94, 94, 30)))
    check = verification.check("smoke.image", FLAGSHIP, lambda: found)
    assert check.problem == "a picture is 64 tokens, a larger one 64"


def test_the_picture_is_a_png():
    data = probes.png((255, 0, 0), 2, 3)
    start = data.index(b"IDAT") + 4
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    assert zlib.decompress(data[start:-16]) == b"\0\xff\0\0\xff\0\0" * 3


@pytest.mark.parametrize(
    ("status", "text", "passed"),
    [
        (400, "At most 0 image(s) may be provided in one prompt.", True),
        (200, "The image is red.", False),  # taken in by a model that has no eyes
        (501, "image", False),
        (400, "max_tokens must be positive", False),
    ],
)
def test_a_picture_is_refused_cleanly(status, text, passed):
    class Refusing:
        def refused_chat(self, messages):
            assert messages[0]["content"][0]["type"] == "image_url"
            return status, text

    assert passes("smoke.image_refused", lambda: probes.image_refused(Refusing())) is passed
