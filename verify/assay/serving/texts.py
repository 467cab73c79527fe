"""Greedy texts of one server: written alone and at once, read again, and compared.

None of that changes what a model computes, but each adds in another order. How far the engine's own
greedy tokens are from the top when it reads them is its noise, and so is how far their
log-probabilities move.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

from assay.serving.client import Client
from forge.manifest.probe_figures import LongPrompt
from forge.manifest.served_figures import Concurrent, Difference, Texts
from forge.manifest.verification import UnmeasuredError

COMPLETION_TOKENS = 64
CANDIDATES = 20  # the most that vLLM gives by default
# Of a text that is written across the border of a chunk: so many tokens on either side.
ASIDE = 64

AnyTexts = TypeVar("AnyTexts", bound=Texts)


@dataclass(frozen=True, kw_only=True)
class Completion:
    """A greedy text, and for each of its positions the likeliest tokens' log-probabilities."""

    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    logprobs: tuple[Mapping[int, float], ...]


class Read(NamedTuple):
    """A greedy text that the engine reads at once.

    `gap` is how far its tokens are from the top at most, `shift` how far their log-probabilities
    are from those that they were written with, on average.
    """

    gap: float
    shift: float


class Writer:
    """The texts of one server, each asked for alone, and its noise; both once."""

    def __init__(self, client: Client, prompts: Sequence[str]) -> None:
        self._client = client
        self._prompts = prompts

    @cached_property
    def texts(self) -> list[Completion]:
        """The prompts, continued one after another."""
        return [complete(self._client, prompt) for prompt in self._prompts]

    @cached_property
    def _read(self) -> list[Read]:
        return [read(self._client, text) for text in self.texts]

    @property
    def noise(self) -> float:
        """The largest gap of its texts."""
        return max(one.gap for one in self._read)

    @property
    def shift(self) -> float:
        """The largest shift of its texts."""
        return max(one.shift for one in self._read)

    def at_once(self) -> Concurrent:
        """The same texts, asked for at the same time."""
        with ThreadPoolExecutor(len(self._prompts)) as pool:
            texts = list(pool.map(lambda prompt: complete(self._client, prompt), self._prompts))
        return compare(Concurrent, texts, self.texts, noise=self.noise)

    def long_prompt(self, *, chunk: int, longest: int) -> LongPrompt:
        """A text that is written across the border of a chunk, and then read as one prompt.

        Args:
            chunk: the most tokens that the engine reads at once.
            longest: the most that it takes in all.

        Raises:
            UnmeasuredError: the engine takes no prompt of more than a chunk, or ended the text.
        """
        if chunk + ASIDE >= longest:
            raise UnmeasuredError(f"no prompt of {longest} tokens has chunks of {chunk}")
        some = self._client.tokenize("\n".join(self._prompts) + "\n")
        before = (some * (chunk // len(some) + 1))[: chunk - ASIDE]
        text = complete(self._client, before, tokens=2 * ASIDE, ignore_eos=True)
        return LongPrompt(
            chunk=chunk,
            prompt=len(before),
            written=len(text.tokens),
            shift=read(self._client, text).shift,
            noise=self.shift,
        )


def compare(
    kind: type[AnyTexts], others: Sequence[Completion], plain: Sequence[Completion], *, noise: float
) -> AnyTexts:
    """Compares texts that were written otherwise with those that were written plainly.

    The gap is that between the two tokens in the plain run, where both texts still have the same
    past.
    """
    differences = []
    agreed = 0
    for number, (other, one) in enumerate(zip(others, plain, strict=True)):
        position = first_difference(other.tokens, one.tokens)
        agreed += len(one.tokens) if position is None else position
        if position is not None:
            gap = _gap(other, one, position)
            differences.append(Difference(prompt=number, position=position, gap=gap))
    return kind(
        prompts=len(plain),
        identical=len(plain) - len(differences),
        tokens=sum(len(one.tokens) for one in plain),
        tokens_before_difference=agreed,
        differences=tuple(differences),
        own_noise=noise,
    )


def first_difference(one: Sequence[int], other: Sequence[int]) -> int | None:
    """The first position at which two sequences differ, their ends included."""
    if one == other:
        return None
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


def complete(
    client: Client, prompt: str | Sequence[int], *, tokens: int = COMPLETION_TOKENS, **options: Any
) -> Completion:
    """Continues a prompt greedily, with the candidates of every position."""
    choice = client.completion(
        prompt,
        max_tokens=tokens,
        logprobs=CANDIDATES,
        return_token_ids=True,
        return_tokens_as_token_ids=True,
        **options,
    )["choices"][0]
    return Completion(
        prompt=tuple(choice["prompt_token_ids"]),
        tokens=tuple(choice["token_ids"]),
        logprobs=tuple(
            {int(token.removeprefix("token_id:")): value for token, value in candidates.items()}
            for candidates in choice["logprobs"]["top_logprobs"]
        ),
    )


def read(client: Client, written: Completion) -> Read:
    """Has the engine read at once what it wrote token by token."""
    text = [*written.prompt, *written.tokens]
    answer = client.completion(text, max_tokens=1, prompt_logprobs=1)
    rows = answer["choices"][0]["prompt_logprobs"][len(written.prompt) :]
    gaps, shifts = [0.0], [0.0]
    for token, row, before in zip(written.tokens, rows, written.logprobs, strict=True):
        found = row[str(token)]["logprob"]
        gaps.append(max(one["logprob"] for one in row.values()) - found)
        shifts.append(abs(before[token] - found))
    return Read(gap=max(gaps), shift=sum(shifts) / max(len(written.tokens), 1))


def _gap(other: Completion, plain: Completion, position: int) -> float | None:
    if position >= min(len(other.tokens), len(plain.tokens)):
        return None
    candidates = plain.logprobs[position]
    found = candidates.get(other.tokens[position])
    return None if found is None else round(candidates[plain.tokens[position]] - found, 4)
