"""Calls of tools: one through the server, and the recipe's tool parser against the template.

That the parser fits the template is found out without a server.
"""

import errno
import json
from pathlib import Path

from jinja2 import TemplateError

from assay.serving.client import Client
from assay.serving.probes import CHAT_TOKENS
from forge.manifest.served_figures import (
    TOOL,
    WEATHER_CALL,
    Call,
    Function,
    ToolCall,
    ToolParser,
    WeatherArguments,
)
from forge.manifest.verification import UnmeasuredError

WEATHER = {
    "type": "function",
    "function": {
        "name": TOOL,
        "description": "Tells the weather in a city.",
        "parameters": WeatherArguments.model_json_schema(),
        # Else vLLM enforces the name only: small models leave arguments out.
        "strict": True,
    },
}
WEATHER_QUESTION = {"role": "user", "content": "What is the weather in Paris?"}


def tool_call(client: Client) -> ToolCall:
    """A call that the request demands comes back with arguments that satisfy its schema."""
    answer = client.chat(
        [WEATHER_QUESTION],
        max_tokens=CHAT_TOKENS,
        tools=[WEATHER],
        tool_choice={"type": "function", "function": {"name": TOOL}},
        chat_template_kwargs={"enable_thinking": False},
    )
    calls = answer["choices"][0]["message"].get("tool_calls") or []
    functions = [call["function"] for call in calls]
    return ToolCall(
        calls=tuple(Call(name=one["name"], arguments=one["arguments"]) for one in functions)
    )


def tool_parser(checkpoint: Path, parser: str) -> ToolParser:
    """The recipe's tool parser gives back the call that the checkpoint's template wrote.

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
    """The template's own answer that calls the tool, and what the parser makes of it."""
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.tokenizers import get_tokenizer
    from vllm.tool_parsers import ToolParserManager

    tokenizer = get_tokenizer(str(checkpoint))
    function = WEATHER_CALL.as_json()
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": function}]}
    chat = tokenizer.apply_chat_template([WEATHER_QUESTION, call], tools=[WEATHER], tokenize=False)
    # What the model would have said itself: after the header of its turn and its thinking.
    answer = chat.rsplit("assistant\n", 1)[-1].rsplit("</think>", 1)[-1].strip()
    answer = answer.removesuffix(tokenizer.eos_token)
    request = ChatCompletionRequest(messages=[WEATHER_QUESTION], tools=[WEATHER])
    made = ToolParserManager.get_tool_parser(parser)(tokenizer, request.tools)
    functions = [one.function for one in made.extract_tool_calls(answer, request).tool_calls]
    return answer, tuple(
        Function(name=one.name, arguments=json.loads(one.arguments)) for one in functions
    )
