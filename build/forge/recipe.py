"""Recipes: one TOML file a variant, read once into frozen models and never changed afterwards.

A recipe is data. It names every input by repository and 40-hex commit, every quantized linear,
every tensor that is kept, and everything the assay compares with. What it does not name is
refused, so a new release of a library cannot change what is built.
"""

import json
import re
import tomllib
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from forge.errors import RecipeError, UnpinnedError

VARIANTS = Path(__file__).resolve().parents[1] / "variants"

Repository = Annotated[str, StringConstraints(pattern=r"^[\w.-]+/[\w.-]+$")]
Commit = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


def _relative(path: str) -> str:
    if not path or path.startswith("/") or "\\" in path or ".." in path.split("/"):
        raise ValueError("must be a relative POSIX path that stays inside its folder")
    return path


RelativePath = Annotated[str, AfterValidator(_relative)]


class Model(BaseModel):
    """What every part of a recipe has in common: strict types, no unknown key, no mutation."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class Unresolved(Model):
    """A pin that is not known yet: what is known of it, for `make lock` to complete."""

    unresolved: str


class Source(Model):
    """A repository on the hub at one commit."""

    repo: Repository
    revision: Commit | Unresolved
    kind: Literal["model", "dataset"] = "model"

    @property
    def uri(self) -> str:
        """The package URL of this repository at its commit (purl type `huggingface`).

        Raises:
            UnpinnedError: the commit is unresolved.
        """
        if isinstance(self.revision, Unresolved):
            raise UnpinnedError(
                f"{self.repo}: no full commit is pinned (known: {self.revision.unresolved!r}). "
                "Resolve it with `make lock VARIANT=<variant>`."
            )
        kind = "datasets/" if self.kind == "dataset" else ""
        return f"pkg:huggingface/{kind}{self.repo}@{self.revision}"


class Checkpoint(Source):
    """A model repository; `files` are the globs of what is taken from it, weights included."""

    files: tuple[RelativePath, ...] = Field(min_length=1)


class Template(Source):
    """One file of a model repository, pinned by its own digest as well."""

    file: RelativePath
    sha256: Sha256


class Dataset(Source):
    """A split of a data set, read from one parquet file of its repository."""

    kind: Literal["model", "dataset"] = "dataset"
    config: str
    split: str
    file: RelativePath
    column: str


class Calibration(Dataset):
    """The forward passes that give the input maxima, and everything that could change them."""

    engine: Literal["modelopt"]
    samples: int = Field(gt=0)
    max_tokens: int = Field(gt=0)
    chat_template: bool
    attention: Literal["eager", "sdpa"]


class Quantize(Model):
    """Linears stored as NVFP4; those of one place share their maxima if `shared_input`.

    `modules` are patterns over module names (see :mod:`forge.rules`). With `shared_input`, the
    linears that the wildcards place under the same parent receive the same tensor, so they carry
    one weight maximum and one input maximum, as the engines' fused kernels need.
    """

    format: Literal["nvfp4"]
    modules: tuple[str, ...] = Field(min_length=1)
    shared_input: bool = False


class Keep(Model):
    """Tensors copied byte for byte, and why."""

    tensors: tuple[str, ...] = Field(min_length=1)
    why: str


class Mtp(Model):
    """The multi-token-prediction head: where it comes from and its exact set of tensors."""

    source: Literal["base", "donor"]
    donor: Checkpoint | None = None
    tensors: tuple[str, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _donor_given(self) -> Self:
        if (self.source == "donor") != (self.donor is not None):
            raise ValueError("`donor` must be given exactly when `source` is 'donor'")
        return self


class Layout(Model):
    """How the result is stored: the loader it is for, and the largest shard in bytes."""

    loader: Literal["modelopt"]
    shard_bytes: int = Field(gt=0)


class Perplexity(Dataset):
    """Perplexity of base and result over one text, and the largest ratio that passes."""

    text_sha256: Sha256
    window: int = Field(gt=1)
    max_ratio: float = Field(gt=1)


class Serve(Model):
    """The published card's flags of `vllm serve`, without dashes; `true` is a bare flag."""

    args: dict[str, str | int | float | bool]
    speculative_tokens: int = Field(gt=0)
    acceptance_floor: tuple[Annotated[float, Field(gt=0, lt=1)], ...]

    @model_validator(mode="after")
    def _a_floor_for_each_position(self) -> Self:
        if len(self.acceptance_floor) != self.speculative_tokens:
            raise ValueError(
                f"acceptance_floor has {len(self.acceptance_floor)} values "
                f"for {self.speculative_tokens} speculative tokens"
            )
        return self


class Recipe(Model):
    """A variant. `name` is the file's name; it is not written in the file."""

    schema_version: Literal[1]
    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    title: str
    architecture: str
    standin: str
    base: Checkpoint
    template: Template
    mtp: Mtp
    calibration: Calibration
    quantize: tuple[Quantize, ...] = Field(min_length=1)
    keep: tuple[Keep, ...] = Field(min_length=1)
    layout: Layout
    strip: dict[RelativePath, tuple[str, ...]] = Field(default_factory=dict)
    perplexity: Perplexity
    serve: Serve

    @field_validator("strip")
    @classmethod
    def _strip_json_only(cls, strip: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        for path in strip:
            if not path.endswith(".json"):
                raise ValueError(f"{path}: keys can be stripped from JSON files only")
        return strip

    @property
    def sources(self) -> dict[str, Source]:
        """Every hub input by its role."""
        sources: dict[str, Source] = {
            "base": self.base,
            "template": self.template,
            "calibration": self.calibration,
            "perplexity": self.perplexity,
        }
        if self.mtp.donor is not None:
            sources["donor"] = self.mtp.donor
        return sources

    def require_pins(self) -> None:
        """Refuses a recipe with an unresolved pin; a rehearsal does not call this.

        Raises:
            UnpinnedError: naming the file, the key, what is known, and the command.
        """
        for role, source in self.sources.items():
            if isinstance(source.revision, Unresolved):
                raise UnpinnedError(
                    f"{self.name}.toml: {role}.revision of {source.repo} is not resolved to a "
                    f"40-hex commit (known: {source.revision.unresolved!r}). "
                    f"Run `make lock VARIANT={self.name}`."
                )


def load(path: Path) -> Recipe:
    """Reads and validates one recipe file.

    Raises:
        RecipeError: naming the file, the key and the value at fault.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read ({error.strerror}).") from error
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{path}: not valid TOML: {error}.") from error
    if "name" in data:
        raise RecipeError(f"{path}: key 'name' is not allowed: the file's name is the variant's.")
    try:
        # JSON mode: TOML arrays are lists, which strict mode takes as tuples only from JSON.
        return Recipe.model_validate_json(json.dumps({**data, "name": path.stem}, default=str))
    except ValidationError as error:
        raise RecipeError(_describe(path, error)) from error


def find(variant: str) -> Recipe:
    """Loads the recipe of a variant by its name.

    Raises:
        RecipeError: there is no such variant; the message lists those there are.
    """
    path = VARIANTS / f"{variant}.toml"
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", variant) or not path.is_file():
        raise RecipeError(f"no variant {variant!r}; there are: {', '.join(names())}.")
    return load(path)


def names() -> list[str]:
    """The variants there are, sorted."""
    return sorted(path.stem for path in VARIANTS.glob("*.toml"))


def _describe(path: Path, error: ValidationError) -> str:
    lines = [f"{path}: {error.error_count()} mistake(s) in this recipe:"]
    for item in error.errors(include_url=False):
        key = ".".join(str(part) for part in item["loc"]) or "(the whole file)"
        lines.append(f"  {key}: {item['msg']}; the value is {item['input']!r}")
    return "\n".join(lines)
