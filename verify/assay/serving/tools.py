"""Calls of tools: one through the server, and the recipe's tool parser against the template.

That the parser fits the template is found out without a server.
"""

import errno
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from pydantic import ValidationError

from assay.serving.client import Client
from assay.serving.probes import CHAT_TOKENS
from forge.core.model import Model
from forge.manifest.verification import Check


class WeatherArguments(Model):
    """The arguments of the tool that the checks offer; its schema is what the model is given."""

    city: str


WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tells the weather in a city.",
        "parameters": WeatherArguments.model_json_schema(),
        # Else vLLM enforces the name only: small models leave arguments out.
        "strict": True,
    },
}
WEATHER_QUESTION = {"role": "user", "content": "What is the weather in Paris?"}
WEATHER_CALL = {"name": "get_weather", "arguments": {"city": "Paris"}}


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
    """The recipe's tool parser gives back the call that the checkpoint's template wrote.

    Raises:
        OSError: the system refused a file that is there, or a temporary one.
    """
    try:
        written, calls = _written_and_read(checkpoint, parser)
    except (KeyError, OSError, ValueError, TemplateError) as error:
        # transformers raises one without a number for a tokenizer that it cannot read.
        if isinstance(error, OSError) and error.errno not in {None, errno.ENOENT}:
            raise
        failure = f"tool parser {parser!r} and the template of {checkpoint} do not work: {error!r}"
        return Check(name="smoke.tool_parser", passed=False, detail=failure)
    return Check(
        name="smoke.tool_parser",
        passed=calls == [WEATHER_CALL],
        detail=f"{parser} read {calls} from the template's own spelling",
        measured={"parser": parser, "written": written, "read": calls},
    )


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
