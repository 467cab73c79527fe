"""Holds what the assay found, `verification.json`, to a policy; what was not measured fails."""

from collections.abc import Mapping
from typing import Any, Literal

from assay.manifest import Manifest, Model, parse
from assay.policy import Policy
from forge.errors import ReleaseError

LEVELS = ("none", "structure", "all")


class Found(Model):
    """A check of the assay."""

    name: str
    passed: bool
    detail: str
    measured: dict[str, Any]


class Report(Model):
    """`verification.json`."""

    variant: str
    level: Literal["none", "structure", "all"]
    passed: bool
    checks: tuple[Found, ...]

    def measured(self, *keys: str) -> Mapping[str, Any] | None:
        """What the first check measured that measured all of this."""
        return next((c.measured for c in self.checks if c.measured.keys() >= {*keys}), None)


def check(data: bytes, where: str, manifest: Manifest, policy: Policy) -> str:
    """Holds a report to the policy, and to the manifest that it comes with.

    Returns:
        What it says, in a few words.

    Raises:
        ManifestError: it is malformed.
        ReleaseError: naming the first demand that it does not meet.
    """
    report = parse(Report, data, where)
    if report.variant != manifest.asked.target:
        raise ReleaseError(f"{where}: is of variant {report.variant}, not {manifest.asked.target}.")
    if LEVELS.index(report.level) < LEVELS.index(policy.level):
        raise ReleaseError(
            f"{where}: was verified to the level {report.level!r}, the policy demands "
            f"{policy.level!r}."
        )
    failed = [one.name for one in report.checks if not one.passed or not one.measured]
    if failed or not report.passed or not report.checks:
        raise ReleaseError(f"{where}: {failed[0] if failed else 'the assay'} did not pass.")
    told = [f"level {report.level}, {len(report.checks)} checks"]
    told += [*_perplexity(report, where, policy), *_acceptance(report, where, policy)]
    return ", ".join(told)


def _perplexity(report: Report, where: str, policy: Policy) -> list[str]:
    found = report.measured("base", "result", "ratio")
    if found is None:
        if policy.max_perplexity_ratio is not None:
            raise ReleaseError(f"{where}: has no perplexity, the policy demands one.")
        return []
    ratio = _number(found["result"], where) / _number(found["base"], where)
    most = policy.max_perplexity_ratio
    if most is None:
        most = _number(found.get("max_ratio"), where)
    if not ratio <= most:
        raise ReleaseError(f"{where}: perplexity is {ratio:.4f} times the base's, above {most}.")
    return [f"perplexity x {ratio:.4f}"]


def _acceptance(report: Report, where: str, policy: Policy) -> list[str]:
    found = report.measured("acceptance")
    if found is None:
        if policy.min_acceptance:
            raise ReleaseError(f"{where}: has no acceptance of drafts, the policy demands it.")
        return []
    rates, floor = found["acceptance"], policy.min_acceptance or found.get("floor")
    if not isinstance(rates, list) or not isinstance(floor, list | tuple):
        raise ReleaseError(f"{where}: the acceptance of drafts is no list.")
    if len(rates) < len(floor):
        raise ReleaseError(f"{where}: has {len(rates)} positions of drafts, wanted {len(floor)}.")
    for position, (rate, least) in enumerate(zip(rates, floor, strict=False), start=1):
        if not _number(rate, where) >= _number(least, where):
            raise ReleaseError(
                f"{where}: of the drafts at position {position}, {rate} were accepted, below "
                f"{least}."
            )
    return [f"acceptance {rates}"]


def _number(value: Any, where: str) -> float:
    if type(value) not in {int, float} or value <= 0:
        raise ReleaseError(f"{where}: {value!r:.100} stands where a positive number should.")
    return float(value)
