"""The figures of the checks that look for garbage: in texts, streams and probabilities.

An engine can serve a checkpoint that is stored as it should be and garble what it says. Where a
stand-in is too small to show that a model works, its figures are reported, and the engine's part is
judged: `gates.full_size` of the recipe, which a rehearsal is judged without.
"""

from collections.abc import Mapping
from typing import Final, Self

from pydantic import Field, model_validator

from forge.core.model import Model
from forge.manifest.measured import Amount, Count, Figures, Some, too_few
from forge.recipes.recipe import Recipe

# What a decoder writes where bytes are no UTF-8.
REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}"
# None of these is in a vocabulary as a whole: each is put together of several tokens.
SCRIPTS: Final[Mapping[str, str]] = {
    "Hangul": "하늘이 맑고 바람이 분다",
    "Han": "山高月小水落石出",
    "kana": "ひらがなとカタカナ",
    "Arabic": "السماء صافية اليوم",
    "Devanagari": "आज आकाश साफ है",
    "emoji": "🙂🚀👩\u200d👩\u200d👧🏳️\u200d🌈",
}
SHOWN = 80  # characters of a text in a sentence


class Said(Model):
    """What came back for a text that was to be repeated."""

    forced: str = Field(description="Where the engine let the model write nothing else; streamed.")
    free: str = Field(description="Where it could answer what it wants.")


class Scripts(Figures):
    """Texts in scripts whose characters are several tokens each, repeated."""

    said: dict[str, Said] = Field(description="By the name of the script.")

    def problem(self, recipe: Recipe) -> str | None:
        """What was forced came back whole; a model of full size repeats the rest by itself."""
        if self.said.keys() != SCRIPTS.keys():
            return f"the scripts are {', '.join(self.said)}, not {', '.join(SCRIPTS)}"
        for script, text in SCRIPTS.items():
            if self.said[script].forced != text:
                return f"{script}: {text!r} came back as {self.said[script].forced!r:.{SHOWN}}"
        demanded = recipe.gates.full_size
        if demanded is None:
            return None
        for script in SCRIPTS:
            if REPLACEMENT in self.said[script].free:
                return f"{script}: an answer is no UTF-8: {self.said[script].free!r:.{SHOWN}}"
        if self.echoes < demanded.echoes:
            return f"{self.echoes} of {len(SCRIPTS)} texts were repeated, wanted {demanded.echoes}"
        return None

    @property
    def echoes(self) -> int:
        """How many texts are in the answer to the request to repeat them."""
        return sum(SCRIPTS.get(name, REPLACEMENT) in one.free for name, one in self.said.items())

    @property
    def told(self) -> str:
        """How many came back."""
        damaged = sum(REPLACEMENT in one.free for one in self.said.values())
        return (
            f"{len(self.said)} written as they are, {self.echoes} repeated by itself, {damaged} "
            "answers with a damaged character"
        )


class Ended(Model):
    """How a text ended in which one token was made the likeliest."""

    token: Count
    finish_reason: str | None
    tokens: Count


class Stop(Figures):
    """The tokens that end a text: those of generation_config.json, and that of the template."""

    ended: tuple[Ended, ...] = Field(
        min_length=1, description="One for each `eos_token_id` of generation_config.json, in order."
    )
    ordinary: tuple[Count, ...] = Field(
        description="Those of them that are no special token, so texts can have them."
    )
    turn_end: Count = Field(description="The last special token of an answer by the template.")
    finish_reason: str | None = Field(description="Of an answer that nothing was demanded of.")

    @model_validator(mode="after")
    def _ordinary_ones_are_some(self) -> Self:
        if not set(self.ordinary) <= {one.token for one in self.ended}:
            raise ValueError("an ordinary token that ends nothing")
        return self

    def problem(self, recipe: Recipe) -> str | None:
        """Each ends a text at once, none is ordinary, and the template's is among them."""
        if self.ordinary:
            token = self.ordinary[0]
            return f"generation_config.json: token {token} ends texts and is no special token"
        for one in self.ended:
            if one.finish_reason != "stop" or one.tokens > 1:
                return (
                    f"token {one.token} of generation_config.json did not end a text: "
                    f"{one.finish_reason!r} after {one.tokens} tokens"
                )
        if self.turn_end not in {one.token for one in self.ended}:
            return f"generation_config.json lacks token {self.turn_end}, which ends an answer"
        if recipe.gates.full_size is not None and self.finish_reason != "stop":
            return f"an answer did not end by itself: {self.finish_reason!r}"
        return None

    @property
    def told(self) -> str:
        """The tokens."""
        tokens = ", ".join(str(one.token) for one in self.ended)
        return f"{tokens} end a text, {self.turn_end} an answer, which ended: {self.finish_reason}"


class Streamed(Model):
    """An answer that was streamed, beside the same answer in one piece."""

    pieces: Some
    streamed: str
    whole: str
    same_tokens: bool = Field(description="Whether both are made of the same tokens.")


class Streaming(Figures):
    """Answers that came in pieces, and in one."""

    answers: tuple[Streamed, ...] = Field(min_length=1)

    def problem(self, recipe: Recipe) -> str | None:
        """The same tokens are the same text; and there were such."""
        del recipe
        if not any(one.same_tokens and one.pieces > 1 for one in self.answers):
            return "no answer was streamed with the tokens that it has in one piece"
        for one in self.answers:
            if one.same_tokens and one.streamed != one.whole:
                return (
                    f"streamed, {one.whole!r:.{SHOWN}} came as {one.streamed!r:.{SHOWN}}, of the "
                    "same tokens"
                )
        return None

    @property
    def told(self) -> str:
        """How many there were."""
        same = sum(one.same_tokens for one in self.answers)
        pieces = sum(one.pieces for one in self.answers)
        return f"{same} of {len(self.answers)} answers in {pieces} pieces compared"


class Logprobs(Figures):
    """The likeliest tokens of every position of a text, as the output head has them."""

    positions: Some
    candidates: Some = Field(description="The least number that a position has.")
    finite: Count = Field(description="Positions all of whose candidates have a finite number.")
    flat: Count = Field(description="Positions whose candidates are all equally likely.")
    lowest: float = Field(le=0, allow_inf_nan=False, description="Of those that are finite.")

    @model_validator(mode="after")
    def _no_more_than_there_are(self) -> Self:
        if max(self.finite, self.flat) > self.positions:
            raise ValueError("more positions than there are")
        return self

    def problem(self, recipe: Recipe) -> str | None:
        """All are finite, and they differ: a head of zeros makes all tokens equally likely."""
        if self.finite != self.positions:
            return f"{self.positions - self.finite} of {self.positions} positions are not finite"
        if self.candidates < 2:
            return "one candidate a position says nothing"
        if self.flat:
            return f"at {self.flat} of {self.positions} positions all tokens are equally likely"
        return too_few(self.positions, recipe.gates.samples.positions, "positions")


class LongPrompt(Figures):
    """A text that was written token by token, then read as one prompt of several chunks."""

    chunk: Some = Field(description="The most tokens that the engine reads at once.")
    prompt: Some = Field(description="Tokens before those that were written, less than a chunk.")
    written: Some
    shift: Amount = Field(
        description="How far reading them in chunks moves their log-probabilities, on average."
    )
    noise: Amount = Field(description="The same of texts that are read in one chunk, at most.")

    @model_validator(mode="after")
    def _written_across_the_border(self) -> Self:
        if not self.prompt <= self.chunk < self.prompt + self.written:
            raise ValueError("the border of a chunk is not within what was written")
        return self

    def problem(self, recipe: Recipe) -> str | None:
        """The border of a chunk moves no more than the engine's noise does."""
        tolerance = recipe.gates.ties.tolerance(self.noise)
        if self.shift <= tolerance:
            return too_few(self.written, recipe.gates.samples.positions, "positions")
        return (
            f"a prompt of several chunks moves log-probabilities by {self.shift:.4f} on average, "
            f"more than {tolerance:.4f}, noise {self.noise:.4f}"
        )


class Timed(Model):
    """Tokens that were written, one text after the other, and how long that took."""

    tokens: Some
    seconds: float = Field(gt=0, allow_inf_nan=False)

    @property
    def each(self) -> float:
        """Seconds a token."""
        return self.seconds / self.tokens


class Pace(Figures):
    """The time a token with MTP and without, over the same requests on one machine."""

    with_mtp: Timed
    without: Timed
    speedup: Amount = Field(description="How many times as fast it is with MTP.")

    @model_validator(mode="after")
    def _quotient(self) -> Self:
        if self.speedup != speedup(self.with_mtp, self.without):
            raise ValueError("the speedup is not that of the times")
        return self

    def problem(self, recipe: Recipe) -> str | None:
        """MTP gains as much as the recipe demands of a real build, if it does."""
        demanded = recipe.gates.full_size
        least = None if demanded is None else demanded.min_mtp_speedup
        if least is None or self.speedup >= least:
            timed = min(self.with_mtp.tokens, self.without.tokens)
            return too_few(timed, recipe.gates.samples.timed, "tokens timed")
        return f"with MTP it writes {self.speedup:.4f} times as fast, wanted {least}"

    @property
    def told(self) -> str:
        """Times and their ratio."""
        with_mtp, without = (1000 * one.each for one in (self.with_mtp, self.without))
        return f"{with_mtp:.1f} ms a token with MTP, {without:.1f} without: x {self.speedup:.2f}"


def speedup(with_mtp: Timed, without: Timed) -> float:
    """How many times as fast texts are written with MTP."""
    return without.each / with_mtp.each
