"""The base of all figures: what a check measured, and when that passes."""

from abc import abstractmethod
from typing import Annotated, TypeVar

from pydantic import Field

from forge.core.model import Model
from forge.recipes.recipe import Recipe

Count = Annotated[int, Field(ge=0)]
# A check that looked at nothing proves nothing.
Some = Annotated[int, Field(ge=1)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Wrong = Annotated[tuple[str, ...], Field(description="What is wrong; empty if nothing is.")]
AnyFigures = TypeVar("AnyFigures", bound="Figures")

NAMED = 3  # of what is wrong, in a sentence


class Figures(Model):
    """What one check has measured: finite, in range and consistent, or no figures at all.

    Thresholds are no figures: they are the recipe's.
    """

    @abstractmethod
    def problem(self, recipe: Recipe) -> str | None:
        """Why these figures do not pass under a recipe; None if they do. Looks at nothing else."""

    @property
    def told(self) -> str:
        """The plain figures, in words."""
        plain = {n: v for n, v in self if isinstance(v, str | int | float) and v != ""}
        return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in plain.items())


def listed(wrong: tuple[str, ...], what: str) -> str | None:
    """The sentence about what is wrong, if anything is: how many, what they are, the first ones."""
    if not wrong:
        return None
    more = ", ..." if len(wrong) > NAMED else ""
    return f"{len(wrong)} {what}: {', '.join(wrong[:NAMED])}{more}"


def too_few(found: int, least: int, what: str) -> str | None:
    """The sentence about what there is too little of to judge, if there is."""
    return f"{found} {what}, {least} needed to judge" if found < least else None
