"""What MTP did: the drafts that were accepted, by the engine's counters; its texts and its time."""

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cache, partial
from threading import Event

from assay.serving.client import Client, Sample
from assay.serving.texts import Completion, Writer, compare
from forge.manifest.probe_figures import Pace, Timed, speedup
from forge.manifest.served_figures import Drafts, Greedy, rates
from forge.manifest.verification import UnmeasuredError

PACE_TOKENS = 32  # of a text that is timed


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


class Handover:
    """What the server with MTP leaves to the one without, which may run at the same time."""

    def __init__(self) -> None:
        self._left: Future[tuple[list[Completion], Callable[[], Timed]] | None] = Future()
        self._idle = Event()

    def leave(self, texts: list[Completion], timed: Callable[[], Timed]) -> None:
        """Leaves texts, and what gives the time that others took."""
        self._left.set_result((texts, timed))

    def end(self) -> None:
        """The server with MTP has answered all; what was not left will not come."""
        if not self._left.done():
            self._left.set_result(None)
        self._idle.set()

    def texts(self) -> list[Completion]:
        """The texts with MTP, as soon as they are there.

        Raises:
            UnmeasuredError: there will be none.
        """
        return self._taken()[0]

    def timed(self) -> Timed:
        """The time with MTP, when that server has nothing else to do.

        Raises:
            UnmeasuredError: there will be none.
        """
        self._idle.wait()
        return self._taken()[1]()

    def _taken(self) -> tuple[list[Completion], Callable[[], Timed]]:
        left = self._left.result()
        if left is None:
            raise UnmeasuredError("there is no text with MTP to compare with")
        return left


def mtp(
    client: Client,
    *,
    writer: Callable[[Client], Writer],
    left: Handover,
    prompts: Sequence[str],
    together: bool,
) -> Drafts:
    """What the head drafts, and how much of it is accepted at each position.

    The greedy texts that were measured are left to be compared, and the time that such take: taken
    now, or when this server is idle where others run at the same time.
    """
    before = speculation(client.metrics())
    texts = writer(client).texts
    figures = speculation(client.metrics()).since(before).figures
    timed = cache(partial(pace, client, prompts))
    if not together:
        timed()
    left.leave(texts, timed)
    return figures


def rewrite(client: Client, *, writer: Callable[[Client], Writer], left: Handover) -> Greedy:
    """Writes the texts of :func:`mtp` once more, without MTP, and compares."""
    own = writer(client)
    noise = own.noise
    return compare(Greedy, left.texts(), own.texts, noise=noise)


def speed(client: Client, *, prompts: Sequence[str], left: Handover) -> Pace:
    """The time a token with MTP and without: one server after the other, each alone."""
    with_mtp = left.timed()
    without = pace(client, prompts)
    return Pace(with_mtp=with_mtp, without=without, speedup=speedup(with_mtp, without))


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


def pace(client: Client, prompts: Sequence[str]) -> Timed:
    """How long a server takes to continue prompts greedily, one after another."""
    began, tokens = time.monotonic(), 0
    for prompt in prompts:
        answer = client.completion(prompt, max_tokens=PACE_TOKENS, ignore_eos=True)
        tokens += answer["usage"]["completion_tokens"]
    return Timed(tokens=tokens, seconds=time.monotonic() - began)
