"""The probes of a chat model: a few requests each, and one check of what comes back.

They cover thinking, a tool call and a picture; that the tool parser fits the template is found
out without a server.
"""

import base64
import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from pydantic import BaseModel, ConfigDict, ValidationError

from assay.checks import Check
from assay.engine import Client

CHAT_TOKENS = 512

# Two pictures of one colour each must not give the same first token with the same probabilities.
MIN_PICTURE_SHIFT = 0.05
RED, BLUE = (255, 0, 0), (0, 0, 255)


class WeatherArguments(BaseModel):
    """The arguments of the tool that the checks offer; its schema is what the model is given."""

    model_config = ConfigDict(strict=True, extra="forbid")

    city: str


WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tells the weather in a city.",
        "parameters": WeatherArguments.model_json_schema(),
        # Else vLLM holds the model to the name only: small models leave arguments out.
        "strict": True,
    },
}
WEATHER_QUESTION = {"role": "user", "content": "What is the weather in Paris?"}
WEATHER_CALL = {"name": "get_weather", "arguments": {"city": "Paris"}}


def chat(client: Client, *, thinking: bool) -> Check:
    """The chat template switches thinking, and the reasoning parser tells it from the answer."""
    answer = client.chat(
        [{"role": "user", "content": "Tell me about the sea."}],
        max_tokens=CHAT_TOKENS,
        chat_template_kwargs={"enable_thinking": thinking},
    )
    reasoning, content = _reasoning(answer), _content(answer)
    return Check(
        name=f"smoke.chat.thinking_{'on' if thinking else 'off'}",
        passed=bool(reasoning or content) if thinking else bool(content) and not reasoning,
        detail=f"{len(reasoning)} characters of reasoning, {len(content)} of answer",
        measured={
            "reasoning_characters": len(reasoning),
            "content_characters": len(content),
            "finish_reason": answer["choices"][0]["finish_reason"],
            "tokens": answer["usage"]["completion_tokens"],
        },
    )


def tool_call(client: Client) -> Check:
    """A call that the request demands comes back with arguments that satisfy its schema."""
    answer = client.chat(
        [WEATHER_QUESTION],
        max_tokens=CHAT_TOKENS,
        tools=[WEATHER],
        tool_choice={"type": "function", "function": {"name": WEATHER_CALL["name"]}},
        chat_template_kwargs={"enable_thinking": False},
    )
    calls = answer["choices"][0]["message"].get("tool_calls") or []
    functions = [call["function"] for call in calls]
    problem = _misfit(functions)
    return Check(
        name="smoke.tool_call",
        passed=problem is None,
        detail=problem or f"called with {functions[0]['arguments']}",
        measured={"calls": functions},
    )


def tool_parser(checkpoint: Path, parser: str) -> Check:
    """The recipe's tool parser gives back the call that the checkpoint's template wrote."""
    try:
        written, calls = _written_and_read(checkpoint, parser)
    except (KeyError, OSError, ValueError, TemplateError) as error:
        failure = f"tool parser {parser!r} and the template of {checkpoint} do not work: {error!r}"
        return Check(name="smoke.tool_parser", passed=False, detail=failure)
    return Check(
        name="smoke.tool_parser",
        passed=calls == [WEATHER_CALL],
        detail=f"{parser} read {calls} from the template's own spelling",
        measured={"parser": parser, "written": written, "read": calls},
    )


def image(client: Client) -> Check:
    """A picture is taken in, and what it shows changes the answer."""
    red, blue = (_look(client, colour) for colour in (RED, BLUE))
    blind = client.chat([_question()], max_tokens=1)
    tokens = red["usage"]["prompt_tokens"] - blind["usage"]["prompt_tokens"]
    answers = [_content(red), _content(blue)]
    shift = _shift(_first_logprobs(red), _first_logprobs(blue)) if all(answers) else 0.0
    return Check(
        name="smoke.image",
        passed=tokens > 0 and shift >= MIN_PICTURE_SHIFT,
        detail=f"{tokens} tokens a picture; red: {answers[0]!r}, blue: {answers[1]!r}",
        measured={
            "image_tokens": tokens,
            "answers": answers,
            "logprob_shift": round(shift, 4),
            "min_logprob_shift": MIN_PICTURE_SHIFT,
        },
    )


def png(colour: tuple[int, int, int], side: int = 128) -> bytes:
    """A square picture of one colour (PNG, 8-bit RGB)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    row = b"\0" + bytes(colour) * side  # each row starts with its filter: none
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(row * side)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, data) for kind, data in chunks)


def _reasoning(answer: Mapping[str, Any]) -> str:
    return (answer["choices"][0]["message"].get("reasoning") or "").strip()


def _content(answer: Mapping[str, Any]) -> str:
    return (answer["choices"][0]["message"].get("content") or "").strip()


def _written_and_read(checkpoint: Path, parser: str) -> tuple[str, list[dict[str, Any]]]:
    """The template's own answer that calls the tool, and what the parser makes of it."""
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.tokenizers import get_tokenizer
    from vllm.tool_parsers import ToolParserManager

    tokenizer = get_tokenizer(str(checkpoint))
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": WEATHER_CALL}]}
    chat = tokenizer.apply_chat_template([WEATHER_QUESTION, call], tools=[WEATHER], tokenize=False)
    # What the model would have said itself: after the header of its turn and its thinking.
    answer = chat.rsplit("assistant\n", 1)[-1].rsplit("</think>", 1)[-1].strip()
    answer = answer.removesuffix(tokenizer.eos_token)
    request = ChatCompletionRequest(messages=[WEATHER_QUESTION], tools=[WEATHER])
    made = ToolParserManager.get_tool_parser(parser)(tokenizer, request.tools)
    functions = [one.function for one in made.extract_tool_calls(answer, request).tool_calls]
    return answer, [{"name": one.name, "arguments": json.loads(one.arguments)} for one in functions]


def _misfit(functions: Sequence[Mapping[str, Any]]) -> str | None:
    """What is wrong with the calls that the server returned, if anything."""
    if [function["name"] for function in functions] != [WEATHER_CALL["name"]]:
        return f"not one call of {WEATHER_CALL['name']}: {functions}"
    try:
        WeatherArguments.model_validate_json(functions[0]["arguments"])
    except ValidationError as error:
        return f"the arguments {functions[0]['arguments']!r} break the schema: {error}"
    return None


def _question(colour: tuple[int, int, int] | None = None) -> dict[str, Any]:
    parts: list[dict[str, Any]] = [{"type": "text", "text": "What is the colour of this picture?"}]
    if colour is not None:
        url = f"data:image/png;base64,{base64.b64encode(png(colour)).decode()}"
        parts.insert(0, {"type": "image_url", "image_url": {"url": url}})
    return {"role": "user", "content": parts}


def _look(client: Client, colour: tuple[int, int, int]) -> dict[str, Any]:
    return client.chat(
        [_question(colour)],
        max_tokens=32,
        logprobs=True,
        top_logprobs=5,
        chat_template_kwargs={"enable_thinking": False},
    )


def _first_logprobs(answer: Mapping[str, Any]) -> dict[str, float]:
    candidates = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    return {candidate["token"]: candidate["logprob"] for candidate in candidates}


def _shift(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    """The largest move of a token; one that fell out of the list counts as its least likely."""
    low, other_low = min(one.values()), min(other.values())
    return max(
        abs(one.get(token, low) - other.get(token, other_low))
        for token in one.keys() | other.keys()
    )
