"""The figures of the checks that ask an engine: perplexity, and what a real server answers."""

from typing import Annotated, Final, Self

from pydantic import Field, model_validator

from forge.core.model import Model
from forge.manifest.measured import Amount, Count, Figures, Some, Wrong, listed, too_few
from forge.recipes.recipe import Profile, Recipe

DEFAULT: Final = "default"  # the first profile of a recipe
EMULATED: Final = "NVFP4: "  # begins the sentence which says that no GPU computed it
Args = dict[str, str | int | float | bool]
# exp of a mean of negative log-probabilities.
Score = Annotated[float, Field(ge=1, allow_inf_nan=False)]
Rate = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
# Rates are written with four digits.
DIGITS = 4


class Profiles(Figures):
    """The ways of serving that were read by the engine's own parser."""

    profiles: dict[str, Profile] = Field(min_length=1)
    unknown_variables: dict[str, tuple[str, ...]] = Field(
        description="Of each profile, the variables of the engine that do nothing."
    )
    wrong: Wrong

    def problem(self, recipe: Recipe) -> str | None:
        """They are the recipe's, and the engine takes them."""
        default = Profile(args=recipe.serve.args, env=recipe.serve.env)
        for name, profile in {DEFAULT: default, **recipe.serve.profiles}.items():
            if self.profiles.get(name) != profile:
                return f"the profile {name!r} is not the recipe's"
        if extra := sorted(self.profiles.keys() - recipe.serve.profiles.keys() - {DEFAULT}):
            return f"the recipe has no profile {extra[0]!r}"
        return listed(self.wrong, "profiles are not taken")

    @property
    def told(self) -> str:
        """Which were taken, and what of them does nothing."""
        unknown = {name: list(ignored) for name, ignored in self.unknown_variables.items()}
        idle = f"; unknown to this vLLM, so without effect: {unknown}" if unknown else ""
        return f"vLLM takes {', '.join(self.profiles)}{idle}"


class Health(Figures):
    """A server that came up: how it was started, and what that changed of the published flags."""

    startup_seconds: Amount
    args: Args
    env: dict[str, str]
    adaptations: tuple[str, ...]

    def problem(self, recipe: Recipe) -> str | None:
        """It was started as the recipe publishes, or each difference has its sentence."""
        for used, published in ((self.args, recipe.serve.args), (self.env, recipe.serve.env)):
            for name in sorted(used.keys() | published.keys()):
                flag = f"--{name}" if used is self.args else name
                changed = used.get(name) != published.get(name)
                if changed and not any(one.startswith(f"{flag}: ") for one in self.adaptations):
                    return f"{flag} is {used.get(name)!r}, published {published.get(name)!r}"
        return None


class Chat(Figures):
    """The lengths of an answer to a question, and how it ended."""

    reasoning_characters: Count
    content_characters: Count
    finish_reason: str | None
    tokens: Count

    @model_validator(mode="after")
    def _written_in_tokens(self) -> Self:
        if self.reasoning_characters + self.content_characters and not self.tokens:
            raise ValueError("characters without tokens")
        return self


class Thinking(Chat):
    """An answer with thinking switched on."""

    def problem(self, recipe: Recipe) -> str | None:
        """It has reasoning or content."""
        del recipe
        return None if self.reasoning_characters or self.content_characters else "it is empty"


class NoThinking(Chat):
    """An answer with thinking switched off."""

    def problem(self, recipe: Recipe) -> str | None:
        """It has content, and no reasoning."""
        del recipe
        if self.reasoning_characters:
            return f"{self.reasoning_characters} characters of reasoning, though it is off"
        return None if self.content_characters else "it is empty"


class Image(Figures):
    """Answers to pictures: two of one size, a larger one, and how far apart the first two are."""

    image_tokens: tuple[int, int] = Field(description="Of a picture, and of a larger one.")
    answers: tuple[str, str, str]
    logprob_shift: Amount = Field(description="Between the first tokens of the first two answers.")

    def problem(self, recipe: Recipe) -> str | None:
        """The pictures were taken in and answered, and what they show matters."""
        least = recipe.gates.min_picture_shift
        if least is None:
            return "the recipe serves no pictures"
        small, large = self.image_tokens
        if not 0 < small < large:
            return f"a picture is {small} tokens, a larger one {large}"
        if not all(self.answers):
            return "a picture got no answer"
        if self.logprob_shift < least:
            return f"another picture moves the answer by {self.logprob_shift}, wanted {least}"
        return None


class ImageRefused(Figures):
    """How a picture was refused."""

    status: int = Field(ge=100, le=599)
    answer: str
    healthy: bool = Field(description="Whether the server lives on.")

    def problem(self, recipe: Recipe) -> str | None:
        """As a mistake of the client's, with the reason, by a server that lives on."""
        del recipe
        if 400 <= self.status < 500 and "image" in self.answer and self.healthy:
            return None
        return f"answered {self.status}: {self.answer[:200]}"


class Drafts(Figures):
    """What the engine counted of the MTP head: drafts made, tokens in them, tokens accepted."""

    drafts: Count
    drafted: Count
    accepted: tuple[Count, ...] = Field(description="By position in a draft.")
    acceptance: tuple[Rate, ...] = Field(
        description="By position, as a share of the drafts, to four digits."
    )

    @model_validator(mode="after")
    def _counts_agree(self) -> Self:
        bounds = (self.drafts, *self.accepted)
        if any(before < after for before, after in zip(bounds, self.accepted, strict=False)):
            raise ValueError("more are accepted at a position than at the one before")
        if not self.drafts <= self.drafted <= self.drafts * max(len(self.accepted), 1):
            raise ValueError("a draft has a token at least, and no more than there are positions")
        if sum(self.accepted) > self.drafted:
            raise ValueError("more are accepted than were drafted")
        if self.acceptance != rates(self.drafts, self.accepted):
            raise ValueError("the rates are not those of the counts")
        return self

    def problem(self, recipe: Recipe) -> str | None:
        """Enough was drafted to judge, and each position is accepted as often as demanded."""
        gates, floor = recipe.gates.mtp, recipe.serve.acceptance_floor
        if gates is None:
            return "the recipe serves no MTP head"
        if len(self.accepted) != len(floor):
            return f"{len(self.accepted)} positions, the recipe has {len(floor)}"
        if few := too_few(self.drafted, gates.min_drafted, "tokens drafted"):
            return few
        pairs = zip(self.accepted, floor, strict=True)
        for position, (accepted, least) in enumerate(pairs, start=1):
            if accepted / self.drafts < least:
                rate = accepted / self.drafts
                return f"at position {position}, {rate:.4f} were accepted, below {least}"
        return None

    @property
    def told(self) -> str:
        """The rates."""
        return f"{self.drafted} drafted, acceptance by position {list(self.acceptance)}"


def rates(drafts: int, accepted: tuple[int, ...]) -> tuple[float, ...]:
    """The share of drafts that was accepted at each position, to four digits."""
    return tuple(round(one / max(drafts, 1), DIGITS) for one in accepted)


class Difference(Model):
    """Where two texts part, and how far apart the two tokens are without MTP, or alone."""

    prompt: Count
    position: Count
    gap: Annotated[
        Amount | None,
        Field(description="Null if the other token is not even among the likeliest."),
    ]


class Texts(Figures):
    """Greedy texts that were written twice."""

    prompts: Some
    identical: Count
    tokens: Some
    tokens_before_difference: Count
    differences: tuple[Difference, ...]
    own_noise: Annotated[
        Amount,
        Field(description="How far the engine's own greedy tokens are from the top, read at once."),
    ]

    @model_validator(mode="after")
    def _counts_agree(self) -> Self:
        parted = {one.prompt for one in self.differences}
        if len(parted) != len(self.differences) or self.identical + len(parted) != self.prompts:
            raise ValueError("identical and parted texts are not all, or one stands twice")
        if any(prompt >= self.prompts for prompt in parted):
            raise ValueError("a text that was not written")
        if self.tokens_before_difference > self.tokens:
            raise ValueError("texts part after their end")
        if not parted and self.tokens_before_difference != self.tokens:
            raise ValueError("identical texts agree in all tokens")
        return self

    def problem(self, recipe: Recipe) -> str | None:
        """Texts part only where two tokens tie, within the engine's own noise; and are enough."""
        least = recipe.gates.samples
        tolerance = recipe.gates.ties.tolerance(self.own_noise)
        beyond = sum(one.gap is None or one.gap > tolerance for one in self.differences)
        if not beyond:
            few = too_few(self.prompts, least.texts, "texts")
            return few or too_few(self.tokens, least.tokens, "tokens in all texts")
        return (
            f"{self.identical} of {self.prompts} texts identical; {beyond} part at a gap wider "
            f"than {tolerance:.4f}, own noise {self.own_noise:.4f}"
        )


class Greedy(Texts):
    """Greedy texts with MTP and without."""


class Concurrent(Texts):
    """Greedy texts that were asked for at once, and each alone."""

    @model_validator(mode="after")
    def _more_than_one(self) -> Self:
        if self.prompts < 2:
            raise ValueError("one request is not at once with others")
        return self


class Settings(Model):
    """How base and result were scored."""

    window: int = Field(gt=1)
    max_windows: Annotated[Some | None, Field(description="Null if all were scored.")]
    base: Args
    result: Args


class Seconds(Model):
    """How long the scoring took."""

    base: Amount
    result: Amount


class Perplexity(Figures):
    """The perplexity of base and result over the same tokens of one text."""

    text: str
    settings: Settings
    windows: Some
    tokens: Some
    scored: Some
    base: Score
    result: Score
    ratio: Amount
    seconds: Seconds

    @model_validator(mode="after")
    def _counts_agree(self) -> Self:
        window, most = self.settings.window, self.settings.max_windows
        if not (self.windows - 1) * window < self.tokens <= self.windows * window:
            raise ValueError(f"{self.tokens} tokens are not {self.windows} windows of {window}")
        if most is not None and self.windows > most:
            raise ValueError(f"{self.windows} windows, though at most {most} were scored")
        if self.scored != self.tokens - self.windows:
            raise ValueError("every token but the first of each window is scored")
        if self.ratio != self.result / self.base:
            raise ValueError("the ratio is not that of result and base")
        return self

    def problem(self, recipe: Recipe) -> str | None:
        """The result has at most the recipe's multiple of the base's, over enough windows."""
        gate = recipe.perplexity
        if self.settings.window != gate.window:
            return f"windows of {self.settings.window} tokens, the recipe has {gate.window}"
        ratio = self.result / self.base
        if ratio > gate.max_ratio:
            return f"perplexity is {ratio:.4f} times the base's, above {gate.max_ratio}"
        whole, least = recipe.gates.full_size, recipe.gates.samples.windows
        return too_few(self.windows, whole.windows if whole else least, "windows")
