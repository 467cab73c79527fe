"""A real server with the flags of the published card, asked what its users will ask of it.

1. The tool parser reads a call back that the checkpoint's own chat template wrote.
2. The server starts with MTP on, thinks and does not think, calls a tool, sees a picture.
3. The MTP head's drafts are accepted as often as the recipe demands.
4. A second server, without MTP, writes the same greedy text.

A check that cannot be made is reported as failed; none is left out.
"""

import base64
import json
import struct
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from pydantic import BaseModel, ConfigDict, ValidationError

from assay import engine
from assay.checks import Check
from assay.engine import Client, Sample
from forge.errors import EngineError
from forge.recipe import Serve

PROMPTS = (
    "The lighthouse stands at the entrance of the harbour and was built in",
    "Copper is a soft metal that has been used by people for",
    "The river rises in the mountains and flows through",
    "In the nineteenth century the town grew quickly because",
    "A telescope gathers light with a lens or a mirror, so that",
    "The castle was destroyed during the war and was rebuilt",
    "The first railway in the country was opened in",
    "Whales are mammals that live in the sea, and they",
    "The university was founded by the king, who",
    "Volcanoes are found where the plates of the crust",
)
COMPLETION_TOKENS = 64
CANDIDATES = 20  # the most that vLLM gives by default
CHAT_TOKENS = 512
CPU_MAX_MODEL_LEN = 4096

MIN_DRAFTED = 200  # the standard error of a rate is then below 0.036

# MTP changes no greedy text, but it runs the model over several tokens at once, which adds in
# another order; where activations are rounded to FP4, that moves logits by tenths. The engine does
# the same without MTP when it reads at once a text that it wrote token by token: how far its own
# greedy tokens are from the top then is its noise. Two runs are two samples of it, so texts may
# part where the gap between the two tokens is at most twice the largest that was seen.
NEAR_TIE = 0.25  # always granted: two steps of a BF16 logit between 16 and 32
WIDEST_TIE = 1.0  # never more, whatever the noise: a token e times as likely is no tie

# Two pictures of one colour each must not give the same first token with the same probabilities.
MIN_PICTURE_SHIFT = 0.05
RED, BLUE = (255, 0, 0), (0, 0, 255)

CONSTRAINED_WITHOUT_MTP = (
    "smoke.tool_call: asked of the server without MTP, because on a CPU vLLM's gated delta net "
    "fails when a grammar rejects every drafted token (vLLM issue 56419)."
)
Probe = Callable[[Client], Check]


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


@dataclass(frozen=True, kw_only=True)
class Completion:
    """A greedy text, and for each of its positions the likeliest tokens' log-probabilities."""

    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    logprobs: tuple[Mapping[int, float], ...]


@dataclass(frozen=True, kw_only=True)
class Speculation:
    """What the engine counted: drafts made, tokens in them, tokens accepted at each position."""

    drafts: int
    drafted: int
    accepted: tuple[int, ...]

    def since(self, before: "Speculation") -> "Speculation":
        """What was counted after `before`."""
        pairs = zip(self.accepted, before.accepted, strict=True)
        return Speculation(
            drafts=self.drafts - before.drafts,
            drafted=self.drafted - before.drafted,
            accepted=tuple(now - then for now, then in pairs),
        )


def run(
    checkpoint: Path, serve: Serve, *, workdir: Path, prompts: Sequence[str] = PROMPTS
) -> list[Check]:
    """Makes every check of this module; the servers' logs are kept in `workdir`.

    Args:
        checkpoint: the folder to serve.
        serve: the published flags, the MTP settings and their floor.
        workdir: where the logs go.
        prompts: what is continued greedily to measure MTP.

    Raises:
        EngineError: vLLM does not run on this machine at all.
    """
    device = engine.device()
    longest = longest_context(checkpoint, device)
    args, adaptations = engine.adapt(serve.args, device=device, max_model_len=longest)
    if device == "cpu":
        adaptations += (CONSTRAINED_WITHOUT_MTP,)
    drafted: list[Completion] = []
    began = time.monotonic()
    first: dict[str, Probe] = {
        "smoke.health": partial(health, began=began, args=args, adaptations=adaptations),
        **FREE,
        "smoke.mtp": partial(mtp, serve=serve, prompts=prompts, drafted=drafted),
    }
    second: dict[str, Probe] = {
        "smoke.greedy_identical": partial(rewrite, prompts=prompts, drafted=drafted)
    }
    (second if device == "cpu" else first).update(CONSTRAINED)
    start = partial(engine.serve, checkpoint, args)
    with_mtp = start(speculative_tokens=serve.speculative_tokens, log=workdir / "serve-mtp.log")
    without = start(speculative_tokens=None, log=workdir / "serve-plain.log")
    parser = str(serve.args.get("tool-call-parser", ""))
    return [tool_parser(checkpoint, parser), *ask(with_mtp, first), *ask(without, second)]


def ask(server: AbstractContextManager[Client], probes: Mapping[str, Probe]) -> list[Check]:
    """One check a probe, from one server; all of them failed if it does not start."""
    try:
        with server as client:
            return [_attempt(name, partial(probe, client)) for name, probe in probes.items()]
    except EngineError as error:
        return [_failed(name, str(error)) for name in probes]


def health(client: Client, *, began: float, args: engine.Args, adaptations: Sequence[str]) -> Check:
    """The server is up; since `began`, with which flags, and what differs from the published."""
    seconds = round(time.monotonic() - began, 1)
    return Check(
        name="smoke.health",
        passed=client.healthy(),
        detail=f"up after {seconds} s; {len(adaptations)} adaptations to this machine",
        measured={
            "startup_seconds": seconds,
            "args": dict(args),
            "adaptations": list(adaptations),
        },
    )


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
        return _failed("smoke.tool_parser", failure)
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


def mtp(
    client: Client, *, serve: Serve, prompts: Sequence[str], drafted: list[Completion]
) -> Check:
    """The head drafts, and each position is accepted as often as the recipe demands.

    The greedy texts that were measured are left in `drafted`, to be compared.
    """
    before = speculation(client.metrics())
    drafted += [complete(client, prompt) for prompt in prompts]
    return acceptance(speculation(client.metrics()).since(before), serve.acceptance_floor)


def acceptance(counted: Speculation, floor: Sequence[float]) -> Check:
    """Judges what was counted against the floor of each position."""
    rates = [accepted / max(counted.drafts, 1) for accepted in counted.accepted]
    enough = counted.drafted >= MIN_DRAFTED
    high = len(rates) == len(floor) and all(map(float.__ge__, rates, floor))
    detail = f"acceptance by position {[round(rate, 3) for rate in rates]}, floor {list(floor)}"
    if not enough:
        detail = f"{counted.drafted} tokens drafted, {MIN_DRAFTED} needed to judge; {detail}"
    return Check(
        name="smoke.mtp",
        passed=enough and high,
        detail=detail,
        measured={
            "drafts": counted.drafts,
            "drafted": counted.drafted,
            "accepted": list(counted.accepted),
            "acceptance": [round(rate, 4) for rate in rates],
            "floor": list(floor),
        },
    )


def rewrite(client: Client, *, prompts: Sequence[str], drafted: Sequence[Completion]) -> Check:
    """Writes the texts of :func:`mtp` once more, without MTP, and compares."""
    if not drafted:
        return _failed("smoke.greedy_identical", "there is no text with MTP to compare with")
    plain = [complete(client, prompt) for prompt in prompts]
    noise = max(own_noise(client, completion) for completion in plain)
    return greedy_identical(drafted, plain, noise=noise)


def greedy_identical(
    with_mtp: Sequence[Completion], without: Sequence[Completion], *, noise: float
) -> Check:
    """MTP changes no greedy text, except where two tokens tie (see `NEAR_TIE`).

    The gap is that between the two tokens in the run without MTP, where both texts still have the
    same past; null means that the other token is not even among the likeliest.
    """
    tolerance = min(max(2 * noise, NEAR_TIE), WIDEST_TIE)
    differences = []
    agreed = 0
    for number, (drafted, plain) in enumerate(zip(with_mtp, without, strict=True)):
        position = first_difference(drafted.tokens, plain.tokens)
        agreed += len(plain.tokens) if position is None else position
        if position is not None:
            gap = _gap(drafted, plain, position)
            differences.append({"prompt": number, "position": position, "gap": gap})
    total = sum(len(plain.tokens) for plain in without)
    beyond = sum(one["gap"] is None or one["gap"] > tolerance for one in differences)
    identical = len(without) - len(differences)
    return Check(
        name="smoke.greedy_identical",
        passed=total > 0 and beyond == 0,
        detail=f"{identical} of {len(without)} texts identical; "
        f"{beyond} part at a gap wider than {tolerance:.4f}, own noise {noise:.4f}",
        measured={
            "prompts": len(without),
            "identical": identical,
            "tokens": total,
            "tokens_before_difference": agreed,
            "differences": differences,
            "own_noise": round(noise, 4),
            "tolerance": round(tolerance, 4),
        },
    )


def first_difference(one: Sequence[int], other: Sequence[int]) -> int | None:
    """The first position at which two sequences differ, their ends included."""
    if one == other:
        return None
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


def speculation(samples: Iterable[Sample]) -> Speculation:
    """Sums vLLM's counters of speculative decoding over its engines."""
    drafts = drafted = 0
    accepted: dict[int, int] = {}
    for sample in samples:
        match sample.name.removeprefix("vllm:spec_decode_"):
            case "num_drafts_total":
                drafts += int(sample.value)
            case "num_draft_tokens_total":
                drafted += int(sample.value)
            case "num_accepted_tokens_per_pos_total":
                position = int(sample.labels["position"])
                accepted[position] = accepted.get(position, 0) + int(sample.value)
    by_position = tuple(accepted[position] for position in sorted(accepted))
    return Speculation(drafts=drafts, drafted=drafted, accepted=by_position)


def complete(client: Client, prompt: str) -> Completion:
    """Continues a prompt greedily, with the candidates of every position."""
    choice = client.completion(
        prompt,
        max_tokens=COMPLETION_TOKENS,
        logprobs=CANDIDATES,
        return_token_ids=True,
        return_tokens_as_token_ids=True,
    )["choices"][0]
    return Completion(
        prompt=tuple(choice["prompt_token_ids"]),
        tokens=tuple(choice["token_ids"]),
        logprobs=tuple(
            {int(token.removeprefix("token_id:")): value for token, value in candidates.items()}
            for candidates in choice["logprobs"]["top_logprobs"]
        ),
    )


def own_noise(client: Client, written: Completion) -> float:
    """How far from the top the tokens of a greedy text are when the engine reads it at once."""
    text = [*written.prompt, *written.tokens]
    answer = client.completion(text, max_tokens=1, prompt_logprobs=CANDIDATES)
    read = answer["choices"][0]["prompt_logprobs"][len(written.prompt) :]
    gaps = [
        max(candidate["logprob"] for candidate in candidates.values())
        - candidates[str(token)]["logprob"]
        for token, candidates in zip(written.tokens, read, strict=True)
    ]
    return max(gaps, default=0.0)


def longest_context(checkpoint: Path, device: engine.Device) -> int:
    """The positions that the model has; on a CPU not more than the checks need."""
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    positions: int = config.get("text_config", config)["max_position_embeddings"]
    return positions if device == "cuda" else min(positions, CPU_MAX_MODEL_LEN)


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


def _attempt(name: str, probe: Callable[[], Check]) -> Check:
    try:
        return probe()
    except EngineError as error:
        return _failed(name, str(error))


def _failed(name: str, detail: str) -> Check:
    return Check(name=name, passed=False, detail=detail)


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


def _gap(drafted: Completion, plain: Completion, position: int) -> float | None:
    if position >= min(len(drafted.tokens), len(plain.tokens)):
        return None
    candidates = plain.logprobs[position]
    other = candidates.get(drafted.tokens[position])
    return None if other is None else round(candidates[plain.tokens[position]] - other, 4)


FREE: dict[str, Probe] = {
    "smoke.chat.thinking_on": partial(chat, thinking=True),
    "smoke.chat.thinking_off": partial(chat, thinking=False),
    "smoke.image": image,
}
CONSTRAINED: dict[str, Probe] = {"smoke.tool_call": tool_call}
