"""The outcome of a check, and the rule that a check which measured nothing has failed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Check:
    """One verdict of the assay.

    `measured` holds the figures that the verdict rests on; with none, the check has failed
    whatever `passed` says, because a check that looked at nothing proves nothing.
    """

    name: str
    passed: bool
    detail: str
    measured: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.passed and not self.measured:
            object.__setattr__(self, "passed", False)
            object.__setattr__(self, "detail", f"measured nothing ({self.detail})")

    def as_json(self) -> dict[str, Any]:
        """This check as it stands in `verification.json`."""
        return {
            "name": self.name,
            "passed": self.passed,
            "detail": self.detail,
            "measured": dict(self.measured),
        }
