"""What a verifier demands of a release beyond that it is whole: a TOML file, or the default.

The default takes any builder of Hallmark, and a build whose structure at least was verified. What
the assay found, `verification.json`, must meet it; what was not measured fails.
"""

import json
import tomllib
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from forge.core import filesystem
from forge.core.errors import ReleaseError
from forge.core.model import mistake
from forge.manifest import document, limits
from forge.manifest.policy import Policy
from forge.manifest.provenance import Manifest
from forge.manifest.verification import LEVELS, Report


def read(path: Path) -> Policy:
    """The policy of a file.

    Raises:
        ReleaseError: it cannot be read, or demands what is not known here.
    """
    try:
        data = tomllib.loads(filesystem.read_some(path, limits.MOST).decode("utf-8"))
        return Policy.model_validate_json(json.dumps(data, default=str))
    except ValidationError as error:
        raise ReleaseError(f"{path}: {mistake(error)}.") from error
    except RecursionError as error:
        raise ReleaseError(f"{path}: cannot be read: it nests too deeply.") from error
    except (OSError, ValueError) as error:
        raise ReleaseError(f"{path}: cannot be read: {error}.") from error


def check(data: bytes, where: str, stated: Manifest, policy: Policy) -> str:
    """Checks a report by the policy, and by the manifest that it comes with.

    Returns:
        What it says, in a few words.

    Raises:
        ManifestError: it is malformed.
        ReleaseError: naming the first demand that it does not meet.
    """
    report = document.parse(Report, data, where)
    if report.variant != stated.asked.target:
        raise ReleaseError(f"{where}: is of variant {report.variant}, not {stated.asked.target}.")
    if LEVELS.index(report.level) < LEVELS.index(policy.level):
        raise ReleaseError(
            f"{where}: was verified to the level {report.level!r}, the policy demands "
            f"{policy.level!r}."
        )
    failed = [one.name for one in report.checks if not one.passed]
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
