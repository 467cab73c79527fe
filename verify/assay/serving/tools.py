"""Calls of tools: one through the server, and the recipe's tool parser against the template.

That the parser fits the template is found out without a server.
"""

import errno
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from assay.serving.client import Client
from forge.core.model import Model
from forge.manifest.call_figures import (
    ORDER,
    ORDER_CALL,
    TOOL,
    WEATHER_CALL,
    Call,
    Function,
    OrderArguments,
    ToolCall,
    ToolNested,
    ToolParser,
    WeatherArguments,
)
from forge.manifest.verification import UnmeasuredError

CALL_TOKENS = 256


def _tool(name: str, description: str, arguments: type[Model]) -> dict[str, Any]:
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": description,
            "parameters": _whole(arguments.model_json_schema()),
            # Else vLLM enforces the name only: small models leave arguments out.
            "strict": True,
        },
    }


def _whole(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A schema without references: vLLM cuts the parameters of a tool apart."""
    definitions = schema.get("$defs", {})

    def whole(part: Any) -> Any:
        if isinstance(part, dict):
            if "$ref" in part:
                return whole(definitions[part["$ref"].rpartition("/")[2]])
            return {name: whole(one) for name, one in part.items() if name != "$defs"}
        return [whole(one) for one in part] if isinstance(part, list) else part

    made: dict[str, Any] = whole(schema)
    return made


WEATHER = _tool(TOOL, "Tells the weather in a city.", WeatherArguments)
PLACE_ORDER = _tool(ORDER, "Orders food and drinks to a city.", OrderArguments)
WEATHER_QUESTION = {"role": "user", "content": "What is the weather in Paris?"}
WISH = {
    "role": "user",
    "content": "Order two pizzas with cheese and olives, and one tea with milk, to Paris.",
}


def tool_call(client: Client) -> ToolCall:
    """A call that the request demands comes back with arguments that satisfy its schema."""
    return ToolCall(calls=_called(client, WEATHER_QUESTION, WEATHER, demanded=True))


def tool_nested(client: Client) -> ToolNested:
    """The same of arguments that nest; and the model is asked for what only the tool can do."""
    demanded, chosen = (_called(client, WISH, PLACE_ORDER, demanded=one) for one in (True, False))
    return ToolNested(demanded=demanded, chosen=chosen)


def _called(
    client: Client, question: Mapping[str, Any], tool: Mapping[str, Any], *, demanded: bool
) -> tuple[Call, ...]:
    """The calls in the answer to a question that comes with a tool."""
    named = {"type": "function", "function": {"name": tool["function"]["name"]}}
    answer = client.chat(
        [question],
        max_tokens=CALL_TOKENS,
        tools=[tool],
        tool_choice=named if demanded else "auto",
        chat_template_kwargs={"enable_thinking": False},
    )
    calls = answer["choices"][0]["message"].get("tool_calls") or []
    functions = [call["function"] for call in calls]
    return tuple(Call(name=one["name"], arguments=one["arguments"]) for one in functions)


def tool_parser(checkpoint: Path, parser: str) -> ToolParser:
    """The recipe's tool parser gives back the calls that the checkpoint's template wrote.

    Raises:
        UnmeasuredError: template and parser do not work.
        OSError: the system refused a file that is there, or a temporary one.
    """
    try:
        written, calls = _written_and_read(checkpoint, parser)
    except (KeyError, OSError, ValueError, TemplateError) as error:
        # transformers raises one without a number for a tokenizer that it cannot read.
        if isinstance(error, OSError) and error.errno not in {None, errno.ENOENT}:
            raise
        raise UnmeasuredError(
            f"tool parser {parser!r} and the template of {checkpoint} do not work: {error!r}"
        ) from error
    return ToolParser(parser=parser, written=written, read=calls)


def _written_and_read(checkpoint: Path, parser: str) -> tuple[str, tuple[Function, ...]]:
    """The template's own answer that calls both tools, and what the parser makes of it."""
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.tokenizers import get_tokenizer
    from vllm.tool_parsers import ToolParserManager

    tokenizer = get_tokenizer(str(checkpoint))
    calls = [{"function": call.as_json()} for call in (WEATHER_CALL, ORDER_CALL)]
    call = {"role": "assistant", "content": "", "tool_calls": calls}
    tools = [WEATHER, PLACE_ORDER]
    chat = tokenizer.apply_chat_template([WEATHER_QUESTION, call], tools=tools, tokenize=False)
    # What the model would have said itself: after the header of its turn and its thinking.
    answer = chat.rsplit("assistant\n", 1)[-1].rsplit("</think>", 1)[-1].strip()
    answer = answer.removesuffix(tokenizer.eos_token)
    request = ChatCompletionRequest(messages=[WEATHER_QUESTION], tools=tools)
    made = ToolParserManager.get_tool_parser(parser)(tokenizer, request.tools)
    functions = [one.function for one in made.extract_tool_calls(answer, request).tool_calls]
    return answer, tuple(
        Function(name=one.name, arguments=json.loads(one.arguments)) for one in functions
    )
