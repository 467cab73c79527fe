"""`verification.json`: what the assay found, and the rule that nothing measured is a failure."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

from pydantic import Field, model_validator

from forge.core.model import Level, Model

LEVELS = ("none", "structure", "all")


class Check(Model):
    """One verdict of the assay.

    A check without figures has failed, whatever it was given as `passed`, because a check that
    looked at nothing proves nothing.
    """

    name: str
    passed: bool
    detail: str = Field(description="The verdict in words.")
    measured: dict[str, Any] = Field(
        default_factory=dict, description="The figures that the verdict rests on."
    )

    @model_validator(mode="after")
    def _nothing_passes_unmeasured(self) -> Self:
        if self.passed and not self.measured:
            object.__setattr__(self, "passed", False)
            object.__setattr__(self, "detail", f"measured nothing ({self.detail})")
        return self


class Report(Model):
    """What the assay found in a build."""

    variant: str
    level: Level = Field(description="How far the build was verified.")
    passed: bool = Field(description="Whether there are checks and all of them passed.")
    checks: tuple[Check, ...]

    def measured(self, *keys: str) -> Mapping[str, Any] | None:
        """What the first check measured that measured all of this."""
        found = (check.measured for check in self.checks)
        return next((measured for measured in found if measured.keys() >= {*keys}), None)


def passed(checks: Sequence[Check]) -> bool:
    """Whether there are checks and all of them passed."""
    return bool(checks) and all(check.passed for check in checks)


def report(variant: str, level: Level, checks: Sequence[Check]) -> Report:
    """The report of checks; without any, as at the level `none`, it is no pass."""
    return Report(variant=variant, level=level, passed=passed(checks), checks=tuple(checks))
