"""Probes for what an engine garbles: characters of several tokens, streams, ends, probabilities."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from assay.serving.client import Client
from assay.serving.probes import content
from forge.manifest.probe_figures import (
    SCRIPTS,
    Ended,
    Logprobs,
    Said,
    Scripts,
    Stop,
    Streamed,
    Streaming,
)
from forge.manifest.verification import UnmeasuredError
from forge.tensors.stop_tokens import GENERATION, KEY, TOKENIZER

ANSWER_TOKENS = 128
CANDIDATES = 20  # the most that vLLM gives by default
LIKELIEST = 100  # the largest bias of a logit
# vLLM gives this where a probability is zero.
IMPOSSIBLE = -9999.0
ROUNDING = 1e-3  # by so much a probability may come out above one

Message = Mapping[str, Any]


def scripts(client: Client) -> Scripts:
    """Texts of every script are repeated: as nothing else is allowed, and freely."""
    said = {}
    for name, text in SCRIPTS.items():
        only = {"structured_outputs": {"choice": [text]}}
        pieces = client.streamed_chat(_repeat(text), **_plain(), **only)
        free = content(client.chat(_repeat(text), **_plain()))
        said[name] = Said(forced=_joined(pieces, "content"), free=free)
    return Scripts(said=said)


def streaming(client: Client) -> Streaming:
    """Answers that are streamed are those that come in one piece, reasoning included."""
    asked = [
        (_user("Tell me about the sea."), True),
        (_user("Say hello."), False),
        (_repeat(SCRIPTS["Hangul"]), False),
        (_repeat(SCRIPTS["emoji"]), False),
    ]
    return Streaming(
        answers=tuple(_twice(client, messages, thinking=thinking) for messages, thinking in asked)
    )


def stop(client: Client, *, checkpoint: Path) -> Stop:
    """The tokens of generation_config.json end texts, and so does what ends an answer.

    Raises:
        UnmeasuredError: there is no such token, or the template writes none.
        OSError: the system does not let a file be read.
    """
    ends = _ends(checkpoint / GENERATION)
    special = _special(checkpoint / TOKENIZER)
    turn = client.tokenize_chat([*_user("Say hello."), {"role": "assistant", "content": "Hello."}])
    of_turn = [token for token in turn if token in special]
    if not of_turn:
        raise UnmeasuredError("the template ends an answer with no special token")
    answer = client.chat(_user("Say hello."), **_plain())
    return Stop(
        ended=tuple(_ended(client, token) for token in ends),
        ordinary=tuple(token for token in ends if token not in special),
        turn_end=of_turn[-1],
        finish_reason=answer["choices"][0]["finish_reason"],
    )


def logprobs(client: Client, *, text: str) -> Logprobs:
    """The candidates of every position of a text but the first, which nothing precedes."""
    answer = client.completion(text, max_tokens=1, prompt_logprobs=CANDIDATES)
    rows = [
        [float(one["logprob"]) for one in position.values()]
        for position in answer["choices"][0]["prompt_logprobs"][1:]
    ]
    return look(rows)


def look(rows: Sequence[Sequence[float]]) -> Logprobs:
    """The figures of the log-probabilities of each position's candidates."""
    good = [row for row in rows if row and all(map(_finite, row))]
    return Logprobs(
        positions=len(rows),
        candidates=min(map(len, rows), default=0),
        finite=len(good),
        flat=sum(max(row) == min(row) for row in good),
        lowest=min((min(0.0, *row) for row in good), default=0.0),
    )


def _finite(logprob: float) -> bool:
    return math.isfinite(logprob) and IMPOSSIBLE < logprob <= ROUNDING


def _twice(client: Client, messages: Sequence[Message], *, thinking: bool) -> Streamed:
    options = {**_plain(thinking=thinking), "return_token_ids": True}
    pieces = client.streamed_chat(messages, **options)
    (choice,) = client.chat(messages, **options)["choices"]
    said = choice["message"]
    return Streamed(
        pieces=sum(bool(one.get("token_ids")) for one in pieces),
        streamed=_joined(pieces, "reasoning") + _joined(pieces, "content"),
        whole=(said.get("reasoning") or "") + (said.get("content") or ""),
        same_tokens=[token for one in pieces for token in one.get("token_ids") or ()]
        == choice["token_ids"],
    )


def _joined(pieces: Iterable[Mapping[str, Any]], part: str) -> str:
    return "".join(one["delta"].get(part) or "" for one in pieces)


def _ended(client: Client, token: int) -> Ended:
    """How a text ends whose likeliest token is this one."""
    answer = client.completion(
        "The river rises in the mountains and", max_tokens=8, logit_bias={str(token): LIKELIEST}
    )
    reason = answer["choices"][0]["finish_reason"]
    return Ended(token=token, finish_reason=reason, tokens=answer["usage"]["completion_tokens"])


def _ends(path: Path) -> list[int]:
    if not path.is_file():
        raise UnmeasuredError(f"{path.name}: is not there, so it has no token that ends a text")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))[KEY]
    except (KeyError, TypeError, ValueError):
        found = None
    ends = found if isinstance(found, list) else [found]
    if not ends or not all(type(token) is int and token >= 0 for token in ends):
        raise UnmeasuredError(f"{path.name}: {KEY} is {found!r}, no token that ends a text")
    return ends


def _special(path: Path) -> set[int]:
    """The tokens that no text has."""
    added = json.loads(path.read_text(encoding="utf-8"))["added_tokens"]
    return {token["id"] for token in added if token["special"]}


def _user(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]


def _repeat(text: str) -> list[Message]:
    return _user(f"Repeat this: {text}")


def _plain(*, thinking: bool = False) -> dict[str, Any]:
    return {
        "max_tokens": ANSWER_TOKENS,
        "chat_template_kwargs": {"enable_thinking": thinking},
    }
