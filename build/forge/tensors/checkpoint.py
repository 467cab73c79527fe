"""The checkpoint that is being built: a recipe applied to the tensors of a base."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from forge.recipes.recipe import Recipe
from forge.tensors import configs, tensor_list, tensorfile
from forge.tensors.plan import Plan, head_source, make_plan
from forge.tensors.tensorfile import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Checkpoint:
    """A recipe, a base and what the one makes of the other.

    `base` are the base's tensors by name, in the order of their data. `head` are the tensors of
    the checkpoint that the MTP head is taken from, `head_source` says which that is; a recipe that
    drops the head has neither. `digests` and `head_digests` are the sha256 of their tensors on
    arrival; whoever reads a tensor holds it to that.
    """

    recipe: Recipe
    base: Mapping[str, Tensor]
    digests: Mapping[str, str]
    plan: Plan
    head: Mapping[str, Tensor]
    head_digests: Mapping[str, str]
    head_source: Literal["base", "donor"] | None

    @property
    def quantization(self) -> dict[str, Any]:
        """`quantization_config` as the recipe's loader reads it, with an empty ignore list."""
        return configs.quantization_config(self.recipe, [])


def read(recipe: Recipe, inputs: Path) -> Checkpoint:
    """The checkpoint that a recipe makes of what fetch left in a folder.

    Raises:
        TensorFileError: the base or the donor breaks the format, or has no list of its tensors.
        RecipeError: the recipe does not fit the base (see :func:`forge.tensors.plan.make_plan`).
    """
    base, digests = _arrived(inputs, "base")
    source = head_source(recipe, base)
    head: tuple[Mapping[str, Tensor], Mapping[str, str]] = ({}, {})
    if source is not None:
        head = (base, digests) if source == "base" else _arrived(inputs, "donor")
    return Checkpoint(
        recipe=recipe,
        base=base,
        digests=digests,
        plan=make_plan(recipe, base),
        head=head[0],
        head_digests=head[1],
        head_source=source,
    )


def _arrived(inputs: Path, role: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a fetched checkpoint, and their digests on arrival."""
    lines = tensor_list.read(inputs / tensor_list.of_input(role))
    digests = {name: line.sha256 for name, line in lines.items()}
    return tensorfile.read_checkpoint(inputs / role), digests
