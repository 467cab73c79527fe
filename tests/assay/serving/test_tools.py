"""Calls of tools, good and bad, and the tool parser against the template."""

import errno
import json

import pytest

from assay.serving import tools
from forge.core import checkout
from forge.manifest import verification
from forge.recipes import recipe

STANDIN = checkout.ROOT / "build/standins/qwen36-dense/checkpoint"


FLAGSHIP = recipe.find("qwen36-27b-vlm-mtp")


def parsed(parser):
    return verification.check(
        "smoke.tool_parser", FLAGSHIP, lambda: tools.tool_parser(STANDIN, parser)
    )


class Answers:
    """A client whose chat gives one prepared message."""

    def __init__(self, message):
        self.message = message

    def chat(self, _, **__):
        return {"choices": [{"message": self.message}]}


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
    answers = Answers({"content": None, "tool_calls": functions})
    check = verification.check("smoke.tool_call", FLAGSHIP, lambda: tools.tool_call(answers))
    assert check.passed is passed


NESTED = '{"city": "Paris", "items": [{"name": "tea", "count": 1, "options": ["milk"]}]}'


@pytest.mark.parametrize(
    ("arguments", "passed"),
    [
        (NESTED, True),
        (NESTED.replace("[{", "{").replace("}]", "}"), False),
        (NESTED.replace('["milk"]', '"milk"'), False),
        (NESTED.replace("1", '"1"'), False),
        (NESTED.replace('[{"name"', '"[{').replace("}]", '}]"'), False),  # JSON in a string
        ('{"city": "Paris"}', False),
    ],
)
def test_nested_arguments_must_satisfy_the_schema(arguments, passed):
    functions = [{"function": {"name": "place_order", "arguments": arguments}}]
    answers = Answers({"content": None, "tool_calls": functions})
    check = verification.check("smoke.tool_nested", FLAGSHIP, lambda: tools.tool_nested(answers))
    assert check.passed is passed


def test_the_schemas_have_no_references():
    """For vLLM takes the parameters of a tool apart, and a reference with them."""
    assert "$" not in json.dumps([tools.WEATHER, tools.PLACE_ORDER])
    items = tools.PLACE_ORDER["function"]["parameters"]["properties"]["items"]
    assert items["items"]["properties"]["options"]["items"]["type"] == "string"


@pytest.mark.engine
def test_tool_parser_and_template_agree():
    check = parsed("qwen3_coder")
    assert check.passed, check
    assert (
        '[{"name": "pizza", "count": 2, "options": ["cheese", "olives"]}, '
        in check.measured.written
    )
    written = "<function=get_weather>\n<parameter=city>\nParis\n</parameter>"
    assert written in check.measured.written


@pytest.mark.engine
@pytest.mark.parametrize("parser", ["hermes", "no_such_parser", ""])
def test_a_parser_of_another_form_fails(parser):
    assert not parsed(parser).passed


@pytest.mark.parametrize(
    "error", [OSError("Can't load tokenizer"), FileNotFoundError(errno.ENOENT, "no tokenizer.json")]
)
def test_a_tokenizer_that_cannot_be_read_fails(monkeypatch, error):
    monkeypatch.setattr(tools, "_written_and_read", raising(error))
    assert "do not work" in parsed("qwen3_coder").problem


def test_a_full_disk_is_no_verdict(monkeypatch):
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(tools, "_written_and_read", raising(full))
    with pytest.raises(OSError, match="No space left"):
        parsed("qwen3_coder")


def raising(error):
    def fail(*_):
        raise error

    return fail
