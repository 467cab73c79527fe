"""The checkpoint under work: a recipe applied to the tensors of a base, made in this one place."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from forge.recipes.recipe import Recipe
from forge.tensors import configs, tensorfile
from forge.tensors.plan import Plan, head_source, make_plan
from forge.tensors.tensorfile import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Checkpoint:
    """A recipe, a base and what the one makes of the other.

    `base` are the base's tensors by name, in the order of their data. `head` are the tensors of
    the checkpoint that the MTP head is taken from, `head_source` says which that is; a recipe that
    drops the head has neither.
    """

    recipe: Recipe
    base: Mapping[str, Tensor]
    plan: Plan
    head: Mapping[str, Tensor]
    head_source: Literal["base", "donor"] | None

    @property
    def quantization(self) -> dict[str, Any]:
        """`quantization_config` as the recipe's loader reads it, with an empty ignore list."""
        return configs.quantization_config(self.recipe, [])


def read(recipe: Recipe, inputs: Path) -> Checkpoint:
    """The checkpoint that a recipe makes of what fetch left in a folder.

    Raises:
        TensorFileError: the base or the donor breaks the format.
        RecipeError: the recipe does not fit the base (see :func:`forge.tensors.plan.make_plan`).
    """
    base = tensorfile.read_checkpoint(inputs / "base")
    plan = make_plan(recipe, base)
    source = head_source(recipe, base)
    if source is None:
        head: Mapping[str, Tensor] = {}
    else:
        head = base if source == "base" else tensorfile.read_checkpoint(inputs / "donor")
    return Checkpoint(recipe=recipe, base=base, plan=plan, head=head, head_source=source)
