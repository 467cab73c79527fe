"""Recipes: one TOML file a variant, read once into frozen models and never changed afterwards.

A recipe is data. It names every input by repository and 40-hex commit, every quantized linear,
every tensor that is kept, and everything the assay compares with. What it does not name is
refused, so a new release of a library cannot change what is built. Its sections are in
:mod:`forge.recipes.sections`.
"""

import json
import re
import tomllib
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, ValidationError, field_validator, model_validator

from forge.core.errors import NotReadyError, RecipeError, UnpinnedError
from forge.core.model import Model, RelativePath
from forge.recipes.sections import (
    Calibration,
    CalibrationSet,
    Donor,
    Fused,
    Gates,
    Keep,
    Layout,
    Mtp,
    Perplexity,
    Profile,
    Published,
    Quantize,
    Remove,
    Serve,
)
from forge.recipes.sources import Checkpoint, Source, Template, Unresolved

__all__ = [
    "Calibration",
    "CalibrationSet",
    "Donor",
    "Fused",
    "Gates",
    "Keep",
    "Layout",
    "Mtp",
    "Perplexity",
    "Profile",
    "Published",
    "Quantize",
    "Recipe",
    "Remove",
    "Serve",
    "find",
    "load",
    "names",
]

VARIANTS = Path(__file__).resolve().parents[2] / "variants"


class Recipe(Model):
    """A variant. `name` is the file's name; it is not written in the file.

    `not_ready` says why a real build cannot start yet, open pins apart, as a clause without a full
    stop. A rehearsal can start all the same.
    """

    schema_version: Literal[1]
    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    title: str
    not_ready: Annotated[str, StringConstraints(min_length=1)] | None = None
    architecture: str
    standin: str
    base: Checkpoint
    template: Template | None = None  # the base's own where there is none
    mtp: Mtp
    calibration: Calibration
    fused: tuple[Fused, ...] = ()
    quantize: tuple[Quantize, ...] = Field(min_length=1)
    keep: tuple[Keep, ...] = Field(min_length=1)
    remove: tuple[Remove, ...] = ()
    layout: Layout
    strip: dict[RelativePath, tuple[str, ...]] = Field(default_factory=dict)
    perplexity: Perplexity
    gates: Gates
    serve: Serve
    published: tuple[Published, ...] = ()

    @model_validator(mode="after")
    def _head_served_iff_there(self) -> Self:
        if (self.mtp.source == "dropped") != (self.serve.speculative_tokens is None):
            raise ValueError("`serve.speculative_tokens` must be given exactly when a head is kept")
        return self

    @model_validator(mode="after")
    def _loader_reads_the_formats(self) -> Self:
        if self.layout.loader == "modelopt" and any(r.format != "nvfp4" for r in self.quantize):
            raise ValueError("the modelopt layout holds 'nvfp4' alone; use 'compressed-tensors'")
        return self

    @model_validator(mode="after")
    def _engine_knows_the_linears(self) -> Self:
        if self.calibration.engine == "modelopt" and self.fused:
            raise ValueError("modelopt has no module for each of the [[fused]] linears")
        if (self.calibration.engine, self.layout.loader) == ("llm-compressor", "modelopt"):
            raise ValueError("llm-compressor calibrates what 'compressed-tensors' stores")
        return self

    @model_validator(mode="after")
    def _lent_iff_lacking(self) -> Self:
        for path in self.lent:
            if found := [glob for glob in self.base.files if fnmatchcase(path, glob)]:
                raise ValueError(
                    f"mtp.donor.lends names {path!r}, which {found[0]!r} of base.files takes from "
                    "the base; take it from one of the two"
                )
        return self

    @model_validator(mode="after")
    def _a_gate_for_all_that_is_measured(self) -> Self:
        if self.gates.max_error.keys() != {rule.format for rule in self.quantize}:
            raise ValueError("`gates.max_error` must name exactly the formats of [[quantize]]")
        if (self.gates.mtp is None) != (self.serve.speculative_tokens is None):
            raise ValueError("`gates.mtp` must be given exactly when a head is served")
        gain = self.gates.full_size and self.gates.full_size.min_mtp_speedup
        if gain is not None and self.serve.speculative_tokens is None:
            raise ValueError("`gates.full_size.min_mtp_speedup` is of a head, and none is served")
        if (self.gates.min_picture_shift is None) != self.serve.text_only:
            raise ValueError(
                "`gates.min_picture_shift` must be given unless --language-model-only is served"
            )
        return self

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
        sources: dict[str, Source | None] = {
            "base": self.base,
            "donor": self.mtp.donor,
            "template": self.template,
            **{f"calibration.sets.{name}": part for name, part in self.calibration.sets.items()},
            "perplexity": self.perplexity,
        }
        return {role: source for role, source in sources.items() if source is not None}

    @property
    def lent(self) -> tuple[RelativePath, ...]:
        """The files that the base lacks and the MTP donor lends."""
        return self.mtp.donor.lends if self.mtp.donor is not None else ()

    def judging(self, *, rehearsal: bool) -> "Recipe":
        """The recipe that a build is judged by: in a rehearsal, without what needs full size."""
        if not rehearsal:
            return self
        gates = self.gates.model_copy(update={"full_size": None})
        return self.model_copy(update={"gates": gates})

    def without_prose(self) -> dict[str, Any]:
        """All that a result is compared with: neither title, nor published figures, nor reasons."""
        return self.model_dump(
            mode="json",
            exclude={
                "title": True,
                "published": True,
                "keep": {"__all__": {"why"}},
                "remove": {"__all__": {"why"}},
            },
        )

    @property
    def open_pins(self) -> dict[str, Source]:
        """The hub inputs whose commit is not known in full, by role."""
        return {
            role: source
            for role, source in self.sources.items()
            if isinstance(source.revision, Unresolved)
        }

    def require_ready(self) -> None:
        """Refuses a recipe of which no real build can start; a rehearsal does not call this.

        Raises:
            UnpinnedError: as :meth:`require_pins`.
            NotReadyError: the recipe states a reason; the message repeats it.
        """
        self.require_pins()
        if self.not_ready is not None:
            raise NotReadyError(
                f"{self.name}.toml: `not_ready` says why no real build can start: "
                f"{self.not_ready}.",
                variant=self.name,
            )

    def require_pins(self) -> None:
        """Refuses a recipe with an unresolved pin.

        Raises:
            UnpinnedError: naming the file, the key and what is known.
        """
        for role, source in self.open_pins.items():
            if isinstance(source.revision, Unresolved):
                raise UnpinnedError(
                    f"{self.name}.toml: {role}.revision of {source.repo} is not resolved to a "
                    f"40-hex commit (known: {source.revision.unresolved!r}).",
                    variant=self.name,
                )


def load(path: Path) -> Recipe:
    """Reads and validates one recipe file.

    Raises:
        RecipeError: naming the file, the key and the value at fault.
        OSError: the system does not let it be read.
    """
    return parse(path.read_bytes(), path)


def parse(written: bytes, path: Path) -> Recipe:
    """The recipe that a file of this path holds; it need not be there.

    Raises:
        RecipeError: naming the file, the key and the value at fault.
    """
    try:
        data = tomllib.loads(written.decode("utf-8"))
    except ValueError as error:  # of TOML or of UTF-8
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
