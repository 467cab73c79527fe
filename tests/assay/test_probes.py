"""Each probe against answers good and bad, and the tool parser against the template."""

import zlib

import pytest

from assay import probes
from forge import identity

STANDIN = identity.ROOT / "build/standins/qwen36-dense/checkpoint"


class Answers:
    """A client whose chat gives prepared messages, one after another."""

    def __init__(self, *messages):
        self.messages = list(messages)

    def chat(self, _, **__):
        message = self.messages.pop(0)
        choice = {
            "message": message,
            "finish_reason": "stop",
            "logprobs": {"content": [CANDIDATES]},
        }
        return {"choices": [choice], "usage": {"completion_tokens": 1, "prompt_tokens": 30}}


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
    check = probes.chat(Answers(message), thinking=thinking)
    assert check.passed is passed
    assert check.name == f"smoke.chat.thinking_{'on' if thinking else 'off'}"


@pytest.mark.parametrize(
    ("calls", "passed"),
    [
        ([("get_weather", '{"city": "Paris"}')], True),
        ([("get_weather", '{"city": "Paris"')], False),
        ([("get_weather", '{"city": 7}')], False),
        ([("get_weather", '{"town": "Paris"}')], False),
        ([("get_time", '{"city": "Paris"}')], False),
        ([("get_weather", '{"city": "Paris"}')] * 2, False),
        ([], False),
    ],
)
def test_a_call_must_satisfy_the_schema(calls, passed):
    functions = [{"function": {"name": name, "arguments": text}} for name, text in calls]
    check = probes.tool_call(Answers({"content": None, "tool_calls": functions}))
    assert check.passed is passed


def test_a_picture_that_changes_nothing_fails():
    """The same probabilities for red and for blue: the tower's output does not reach the model."""
    check = probes.image(Answers({"content": "Red."}, {"content": "Red."}, {"content": "Red."}))
    assert not check.passed
    assert check.measured["logprob_shift"] == 0


def test_the_picture_is_a_png():
    data = probes.png((255, 0, 0), side=2)
    start = data.index(b"IDAT") + 4
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    assert zlib.decompress(data[start:-16]) == b"\0\xff\0\0\xff\0\0" * 2


@pytest.mark.engine
def test_tool_parser_and_template_agree():
    check = probes.tool_parser(STANDIN, "qwen3_coder")
    assert check.passed, check
    assert (
        "<function=get_weather>\n<parameter=city>\nParis\n</parameter>" in check.measured["written"]
    )


@pytest.mark.engine
@pytest.mark.parametrize("parser", ["hermes", "no_such_parser", ""])
def test_a_parser_of_another_form_fails(parser):
    assert not probes.tool_parser(STANDIN, parser).passed
