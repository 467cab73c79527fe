"""The sections of a recipe: frozen, strict, and refused with a reason where they make no sense."""

from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, field_validator, model_validator

from forge.core.model import Model, RelativePath, Sha256
from forge.recipes.sources import Checkpoint, Dataset

# The flag of `vllm serve` that says among how many devices a checkpoint is divided.
DEVICES = "tensor-parallel-size"
SCRIPTS = 6  # whose texts are repeated, see `forge.manifest.probe_figures`
Finite = Annotated[float, Field(allow_inf_nan=False)]


class CalibrationSet(Dataset):
    """Samples of one data set, in its order; each row is used at most once.

    `text` rows are messages of a role and a content, or plain strings, in a column of a parquet
    file. `image-text` rows are lines of a JSONL file whose messages name pictures, which lie in
    the tar files that `media` matches. They pass through the whole model, with the processor's
    pixel values, or through the language model alone.

    `rows` says what a sample is made of. `single`: one row, text cut at `max_tokens`. `joined`:
    rows one after the other, each rendered by itself, until the sample has exactly `max_tokens`
    tokens. The row that fills a sample is cut there, and the next sample starts with the row
    after it.
    """

    content: Literal["text", "image-text"]
    through: Literal["model", "language-model"]
    media: tuple[RelativePath, ...] = ()
    rows: Literal["single", "joined"]
    samples: int = Field(gt=0)
    max_tokens: int = Field(gt=0)
    chat_template: bool

    @model_validator(mode="after")
    def _pictures_somewhere(self) -> Self:
        if (self.content == "image-text") != bool(self.media):
            raise ValueError("`media` must be given exactly when `content` is 'image-text'")
        if self.content == "image-text" and self.through != "model":
            raise ValueError("pictures pass through the whole model: `through` must be 'model'")
        if self.content == "image-text" and self.rows != "single":
            raise ValueError("a row with pictures cannot be cut: `rows` must be 'single'")
        return self

    @property
    def most_rows(self) -> int:
        """As many rows as the samples can take: a joined row has at least one token."""
        return self.samples * (self.max_tokens if self.rows == "joined" else 1)


class Calibration(Model):
    """The forward passes that give the input maxima, and everything that could change them.

    All sets add to the same maxima. With `all_experts` every token passes through every expert
    while the maxima are taken, so that no expert depends on what the router sends it.
    llm-compressor calibrates under eager attention, whatever the model was loaded with.
    """

    engine: Literal["modelopt", "llm-compressor"]
    attention: Literal["eager", "sdpa"]
    all_experts: bool = False
    sets: dict[Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]+$")], CalibrationSet] = Field(
        min_length=1
    )

    @model_validator(mode="after")
    def _engine_does_that(self) -> Self:
        if self.engine == "modelopt" and self.all_experts:
            raise ValueError("`all_experts` needs 'llm-compressor'")
        if self.engine == "llm-compressor" and self.attention != "eager":
            raise ValueError("llm-compressor calibrates under eager attention: say so")
        whole = all((p.content, p.through) == ("text", "model") for p in self.sets.values())
        if self.engine == "llm-compressor" and not whole:
            raise ValueError("llm-compressor takes text through the whole model alone")
        return self


class Fused(Model):
    """Experts that lie in one tensor [experts, rows, columns], read as linears of their own.

    The rows of each expert are split evenly among `linears`, in that order. They are named
    `<parent of the tensor>.<expert>.<linear>`, and rules name them so.
    """

    tensors: tuple[str, ...] = Field(min_length=1)
    linears: tuple[str, ...] = Field(min_length=1)


class Quantize(Model):
    """Linears stored in a format; those of one place share their maxima if `shared_input`.

    `nvfp4` is W4A4 with the input maxima of the calibration, `fp8` W8A8 with a scale a row and
    inputs scaled as they come. `modules` are patterns over module names (see
    :mod:`forge.tensors.plan`).
    With `shared_input`, the linears that the wildcards place under the same parent receive the
    same tensor, so they carry one weight maximum and one input maximum, as the engines' fused
    kernels need.
    """

    format: Literal["nvfp4", "fp8"]
    modules: tuple[str, ...] = Field(min_length=1)
    shared_input: bool = False

    @model_validator(mode="after")
    def _nothing_to_share(self) -> Self:
        if self.format == "fp8" and self.shared_input:
            raise ValueError("`shared_input` has no meaning for 'fp8': every row has its own scale")
        return self


class Keep(Model):
    """Tensors copied byte for byte; `why` begins with what they are, and a colon if it goes on."""

    tensors: tuple[str, ...] = Field(min_length=1)
    why: str

    @property
    def what(self) -> str:
        """What they are, in a few words."""
        return self.why.partition(":")[0]


class Remove(Keep):
    """Tensors of the base that the result does not have, and why."""


class Donor(Checkpoint):
    """A repository that gives the head; `lends` are other files, which the base does not have.

    Its config says how many layers the head has, so `files` must take it.
    """

    lends: tuple[RelativePath, ...] = ()

    @field_validator("files")
    @classmethod
    def _with_its_config(cls, files: tuple[RelativePath, ...]) -> tuple[RelativePath, ...]:
        if not any(fnmatchcase("config.json", glob) for glob in files):
            raise ValueError("must take config.json, which says how many layers the head has")
        return files


class Mtp(Model):
    """The multi-token-prediction head: where it comes from and its exact set of tensors.

    `base-else-donor` takes a base's own head where it has one. `dropped` leaves the head of the
    base out, on purpose; `tensors` then says what is left out.
    """

    source: Literal["base", "donor", "base-else-donor", "dropped"]
    donor: Donor | None = None
    tensors: tuple[str, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _donor_given(self) -> Self:
        if ("donor" in self.source) != (self.donor is not None):
            raise ValueError("`donor` must be given exactly when `source` names the donor")
        return self


class Layout(Model):
    """How the result is stored.

    `loader` is the engine's loader that it is for, `shard_bytes` the largest shard. `kv_cache`
    declares the engine's KV cache as FP8 with a constant scale of one, which stores no tensor.
    `ignore` replaces the list of exact names that are not quantized by the patterns of a
    published card; the engine must find the same modules with them (see
    :mod:`forge.tensors.vllm_names`).
    """

    loader: Literal["modelopt", "compressed-tensors"]
    shard_bytes: int = Field(gt=0)
    kv_cache: Literal["fp8"] | None = None
    ignore: tuple[str, ...] = ()


class Perplexity(Dataset):
    """Perplexity of base and result over one text, and the largest ratio that passes."""

    text_sha256: Sha256
    window: int = Field(gt=1)
    max_ratio: Finite = Field(gt=1)


class Ties(Model):
    """Where a greedy text may differ from itself, written or read otherwise.

    Neither MTP, nor other requests at the same time, nor the chunks in which a prompt is read
    change what a model computes. But each runs the model over several tokens at once, which adds in
    another order. Where activations are rounded to FP4, that moves logits by tenths. The engine
    does the same when it reads at once a text that it wrote token by token: how far its own greedy
    tokens are from the top then is its noise. Two runs are two samples of it, so texts may part
    where the gap between the two tokens is at most twice the largest noise that was seen. A gap of
    `near` is always granted: 0.25 is two steps of a BF16 logit between 16 and 32. One wider than
    `widest` never is, whatever the noise: a token e times as likely is no tie.
    """

    near: Finite = Field(ge=0)
    widest: Finite = Field(gt=0, le=1)

    @model_validator(mode="after")
    def _near_is_nearer(self) -> Self:
        if self.near > self.widest:
            raise ValueError("`near` must not be above `widest`")
        return self

    def tolerance(self, noise: float) -> float:
        """The widest gap that an engine of this noise explains."""
        return min(max(2 * noise, self.near), self.widest)


class MtpGates(Model):
    """What the drafts of the MTP head must show.

    A rate of acceptance is judged from `min_drafted` tokens on: with 200, its standard error is
    below 0.036.
    """

    min_drafted: int = Field(gt=0)


class FullSize(Model):
    """What a model of full size must show, and a stand-in of five million parameters cannot.

    It repeats `echoes` texts of the closed list of scripts without a damaged character, ends an
    answer by itself, and calls a tool with nested arguments unforced. `min_mtp_speedup` is how
    many times as fast as without its MTP head it must write. The whole text of the perplexity is
    scored, which has `windows` at least: 400 of 512 tokens are 6.3 bytes a token of wikitext-2's
    test, and no tokenizer of these models makes so few.
    """

    echoes: int = Field(gt=0, le=SCRIPTS)
    windows: int = Field(gt=0)
    min_mtp_speedup: Annotated[Finite, Field(gt=0)] | None = None


class Samples(Model):
    """How much there must be to judge by: a verdict of one text, or of one token, shows nothing.

    Attributes:
        texts: that are written twice, greedily.
        tokens: in all of these.
        positions: whose log-probabilities are looked at.
        timed: tokens that are written to measure the time that one takes.
        windows: of the perplexity's text.
    """

    texts: int = Field(gt=1)
    tokens: int = Field(gt=0)
    positions: int = Field(gt=0)
    timed: int = Field(gt=0)
    windows: int = Field(gt=0)


# Who else reads a checkpoint's lists, by the names that :mod:`forge.tensors.other_names` has.
Reader = Literal["sglang", "transformers"]


class Gates(Model):
    """What the assay demands beside perplexity and acceptance; no threshold is in its code.

    An error is |Q - W| / |W|, in the Frobenius norm. Rounding explains 0.2 for `nvfp4`: a block's
    largest magnitude is 5.6 to 6.4 steps, as its scale is off by up to 1/16, and the others lose
    most, one step, at five, which makes (0.1 + 15 * 1) / (32 + 15 * 25) of the square, 0.193. It
    explains 0.07 for `fp8`: three bits of mantissa, 1/16 of each weight, and a little for the
    rounding to BF16 before. Only blocks far smaller than the rest may be off by more.

    Attributes:
        max_error: by format, the largest relative error of a linear.
        min_picture_shift: how far at least a picture of another colour moves the log-probability
            of a first token; None unless pictures are served.
        readers: those beside vLLM who must read the lists of what is quantized as what is stored.
        samples: how much there must be to judge by.
        ties: where greedy texts may part.
        full_size: demanded of real builds alone; None in the recipe that a rehearsal is judged by.
        mtp: demanded of the drafts; None unless a head is served.
    """

    max_error: dict[Literal["nvfp4", "fp8"], Annotated[Finite, Field(gt=0, lt=1)]]
    min_picture_shift: Annotated[Finite, Field(gt=0)] | None = None
    readers: tuple[Reader, ...] = ()
    samples: Samples
    ties: Ties
    full_size: FullSize | None
    mtp: MtpGates | None = None


class Profile(Model):
    """Flags of `vllm serve` without dashes, `true` for a bare flag, and environment variables."""

    args: dict[str, str | int | float | bool]
    env: dict[str, str] = Field(default_factory=dict)

    @field_validator("args")
    @classmethod
    def _on_a_count_of_devices(cls, args: dict[str, Any]) -> dict[str, Any]:
        devices = args.get(DEVICES, 1)
        if type(devices) is not int or devices < 1:
            raise ValueError(f"{DEVICES} must be a count")
        return args


class Serve(Profile):
    """The published card's way of serving; `profiles` are further ways that it publishes.

    Without `speculative_tokens` the result is served without an MTP head.
    """

    speculative_tokens: Annotated[int, Field(gt=0)] | None = None
    acceptance_floor: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = ()
    profiles: dict[str, Profile] = Field(default_factory=dict)

    @property
    def devices(self) -> set[int]:
        """Among how many devices the ways of serving divide it."""
        return {int(way.args.get(DEVICES, 1)) for way in (self, *self.profiles.values())}

    @property
    def text_only(self) -> bool:
        """Whether it is served without a vision tower."""
        return self.args.get("language-model-only", False) is True

    @model_validator(mode="after")
    def _a_floor_for_each_position(self) -> Self:
        if len(self.acceptance_floor) != (self.speculative_tokens or 0):
            raise ValueError(
                f"acceptance_floor has {len(self.acceptance_floor)} values "
                f"for {self.speculative_tokens or 0} speculative tokens"
            )
        return self


class Published(Model):
    """A figure of the published card, to compare with; `source` says where it is written."""

    figure: str
    value: float
    source: str
