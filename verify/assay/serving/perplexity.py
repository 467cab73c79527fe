"""Perplexity of base and result over one text, by the same engine with the same settings.

The protocol is that of the published wikitext-2 figures: the whole text is tokenized once without
special tokens and cut into windows that do not overlap; the first token of a window has no context
and is not scored; the last window is shorter and is kept. A server reads the windows, so the
result is scored as it is served, its KV cache included.
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from assay.serving.client import Client
from forge.manifest.served_figures import Perplexity as Figures
from forge.manifest.served_figures import Seconds, Settings
from forge.manifest.verification import UnmeasuredError

WINDOWS_AT_ONCE = 16  # in one request, for the engine to batch; no more than a few MB of answer


@dataclass(frozen=True, kw_only=True)
class Text:
    """What is scored: a text as it is, its name, tokens in a window; None scores all windows."""

    name: str
    content: str
    window: int
    max_windows: int | None = None


@dataclass(frozen=True, kw_only=True)
class Perplexity:
    """One measurement; `value` is exp(`mean_nll`), over `scored` of `tokens` tokens."""

    windows: int
    tokens: int
    scored: int
    value: float
    mean_nll: float
    seconds: float


def split(tokens: Sequence[int], window: int) -> list[list[int]]:
    """Cuts tokens into windows that do not overlap; the last one may be shorter."""
    return [list(tokens[start : start + window]) for start in range(0, len(tokens), window)]


def score(client: Client, text: Text) -> Perplexity:
    """Scores a text with a running server; `seconds` counts the scoring, not the start.

    Raises:
        EngineError: the server refused or died.
    """
    began = time.monotonic()
    windows = split(client.tokenize(text.content), text.window)[: text.max_windows]
    prompts = [window for window in windows if len(window) > 1]
    logprobs: list[float] = []
    for batch in split(range(len(prompts)), WINDOWS_AT_ONCE):
        asked = [prompts[number] for number in batch]
        answer = client.completion(asked, max_tokens=1, prompt_logprobs=0)
        choices = sorted(answer["choices"], key=lambda choice: int(choice["index"]))
        for tokens, choice in zip(asked, choices, strict=True):
            logprobs += _scored(tokens, choice["prompt_logprobs"])
    mean_nll = -math.fsum(logprobs) / len(logprobs) if logprobs else math.nan
    return Perplexity(
        windows=len(windows),
        tokens=sum(map(len, windows)),
        scored=len(logprobs),
        value=math.exp(mean_nll),
        mean_nll=mean_nll,
        seconds=round(time.monotonic() - began, 2),
    )


def compare(
    client: Client, *, base: Perplexity, text: Text, args: Mapping[str, Mapping[str, Any]]
) -> Figures:
    """The figures of check `perplexity`: of the base, and of what `client` serves.

    `args` has the flags with which `base` and `result` were served.
    """
    settings = Settings(
        window=text.window,
        max_windows=text.max_windows,
        base=dict(args["base"]),
        result=dict(args["result"]),
    )
    return figures(base, score(client, text), text=text.name, settings=settings)


def figures(base: Perplexity, result: Perplexity, *, text: str, settings: Settings) -> Figures:
    """Puts together two measurements of the same tokens.

    Raises:
        UnmeasuredError: they are not of the same tokens, or no finite number came of one.
    """
    if (base.windows, base.tokens) != (result.windows, result.tokens):
        raise UnmeasuredError(
            f"the tokenizers differ: {base.tokens} tokens in the base, {result.tokens} here"
        )
    if not (math.isfinite(base.value) and math.isfinite(result.value)):
        raise UnmeasuredError(f"no finite number: base {base.value}, result {result.value}")
    return Figures(
        text=text,
        settings=settings,
        windows=result.windows,
        tokens=result.tokens,
        scored=result.scored,
        base=base.value,
        result=result.value,
        ratio=result.value / base.value,
        seconds=Seconds(base=base.seconds, result=result.seconds),
    )


def _scored(
    tokens: Sequence[int], candidates: Sequence[Mapping[str, Any] | None]
) -> Iterator[float]:
    """The log-probability of each token of a window but the first."""
    pairs = zip(tokens, candidates, strict=True)
    next(pairs)
    for token, likely in pairs:
        assert likely is not None  # noqa: S101 (only the first token of a prompt has none)
        yield float(likely[str(token)]["logprob"])
