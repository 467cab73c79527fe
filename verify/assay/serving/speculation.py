"""What MTP did: how many of its drafts were accepted, and whether it changed the text.

Acceptance is read from the engine's own counters; texts are greedy, written with MTP and without.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from assay.serving.client import Client, Sample
from forge.manifest.served_figures import Difference, Drafts, Greedy, rates

COMPLETION_TOKENS = 64
CANDIDATES = 20  # the most that vLLM gives by default


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

    @property
    def figures(self) -> Drafts:
        """These counts, and the rates that they make."""
        return Drafts(
            drafts=self.drafts,
            drafted=self.drafted,
            accepted=self.accepted,
            acceptance=rates(self.drafts, self.accepted),
        )


def greedy(
    with_mtp: Sequence[Completion], without: Sequence[Completion], *, noise: float
) -> Greedy:
    """Compares texts that were written with MTP and without.

    The gap is that between the two tokens in the run without MTP, where both texts still have the
    same past.
    """
    differences = []
    agreed = 0
    for number, (drafted, plain) in enumerate(zip(with_mtp, without, strict=True)):
        position = first_difference(drafted.tokens, plain.tokens)
        agreed += len(plain.tokens) if position is None else position
        if position is not None:
            gap = _gap(drafted, plain, position)
            differences.append(Difference(prompt=number, position=position, gap=gap))
    return Greedy(
        prompts=len(without),
        identical=len(without) - len(differences),
        tokens=sum(len(plain.tokens) for plain in without),
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


def _gap(drafted: Completion, plain: Completion, position: int) -> float | None:
    if position >= min(len(drafted.tokens), len(plain.tokens)):
        return None
    candidates = plain.logprobs[position]
    other = candidates.get(drafted.tokens[position])
    return None if other is None else round(candidates[plain.tokens[position]] - other, 4)
