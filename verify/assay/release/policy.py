"""What a verifier demands of a release beyond that it is whole: a TOML file, or the default.

The default takes a real build of Hallmark whose structure at least was verified, no rehearsal. What
the assay found, `verification.json`, must meet the recipe first and then the policy, which may ask
for more than the recipe, never for less.
"""

import datetime
import json
import os
import tomllib
from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

from forge.core import filesystem
from forge.core.errors import ReleaseError
from forge.core.model import mistake
from forge.manifest import document, limits, verification
from forge.manifest.policy import KNOWN_BUILDERS, MOST_REBUILDERS, Policy
from forge.manifest.probe_figures import Pace
from forge.manifest.provenance import REHEARSALS, Manifest
from forge.manifest.served_figures import Drafts, Perplexity
from forge.manifest.verification import LEVELS, Report
from forge.recipes.recipe import Recipe


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


def demanded(path: Path | None, *, rehearsal: bool, reproduced: int | None = None) -> Policy:
    """The policy of a file, or the default, with what options demand. No option loosens a file's.

    Args:
        path: the file.
        rehearsal: whether a rehearsal is taken as well.
        reproduced: how many rebuilders are demanded.

    Raises:
        ReleaseError: it cannot be read or has expired, an option would loosen it, or a number is
            out of bounds.
    """
    if path is None:
        policy = Policy(builders=KNOWN_BUILDERS) if rehearsal else Policy()
    else:
        policy = read(path)
        _require_current(policy, path)
    if reproduced is not None:
        if not 0 <= reproduced <= MOST_REBUILDERS:
            raise ReleaseError(
                f"{reproduced} rebuilders cannot be demanded; from 0 to {MOST_REBUILDERS} can."
            )
        if reproduced < policy.reproductions:
            raise ReleaseError(
                f"{path}: demands {policy.reproductions} rebuilders, and no option loosens a "
                f"policy. Demand {policy.reproductions} or more, not {reproduced}, or leave it out."
            )
        policy = policy.model_copy(update={"reproductions": reproduced})
    if rehearsal and not {*policy.builders} & {*REHEARSALS.values()}:
        raise ReleaseError(
            f"{path}: takes no rehearsal, and no option loosens a policy. Name their builders, "
            f"{', '.join(REHEARSALS.values())}, in its `builders`, or use another policy."
        )
    return policy


def _require_current(policy: Policy, path: Path) -> None:
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    if policy.expires is not None and now >= policy.expires:
        raise ReleaseError(
            f"{path}: expired at {policy.expires}, so it may lack what was revoked since. Take the "
            "newer one from the publisher."
        )


def require_outside(folder: Path, paths: Iterable[Path]) -> None:
    """Refuses policies, keys and statements that lie in the release which they are to judge.

    Raises:
        ReleaseError: one does, by its name or by where its links lead.
    """
    inside = filesystem.real(folder)
    for path in paths:
        for place in (Path(os.path.abspath(path)), filesystem.real(path)):  # noqa: PTH100 - no links
            if place.is_relative_to(inside) or place.is_relative_to(os.path.abspath(folder)):  # noqa: PTH100
                raise ReleaseError(
                    f"{path}: lies in the release {folder}, and what lies there vouches for "
                    "nothing. Take it from where the publisher announces it."
                )


def check(data: bytes, where: str, *, stated: Manifest, recipe: Recipe, policy: Policy) -> Report:
    """Checks a report by recipe and policy, and by the manifest that it comes with.

    The recipe decides which checks there must be, and under which thresholds they pass. A policy
    only adds to that.

    Raises:
        ManifestError: it is malformed, or its figures contradict each other.
        ReleaseError: naming the first demand that it does not meet.
    """
    report = document.parse(Report, data, where)
    if report.variant != stated.asked.target:
        raise ReleaseError(f"{where}: is of variant {report.variant}, not {stated.asked.target}.")
    said = stated.predicate.build_definition.internal_parameters.verified
    if report.level != said:
        raise ReleaseError(
            f"{where}: is of the level {report.level!r}, the manifest says {said!r}."
        )
    if LEVELS.index(report.level) < LEVELS.index(policy.level):
        raise ReleaseError(
            f"{where}: was verified to the level {report.level!r}, the policy demands "
            f"{policy.level!r}."
        )
    reason = verification.refutation(report, recipe, rehearsal=stated.rehearsal)
    if reason is None:
        reason = _unmet(report, policy)
    if reason is not None:
        raise ReleaseError(f"{where}: {reason}.")
    return report


def told(report: Report) -> str:
    """What a report says, in a few words."""
    words = [f"level {report.level}, {len(report.checks)} checks"]
    if scored := report.figures(Perplexity):
        words.append(f"perplexity x {scored.ratio:.4f}")
    if drafts := report.figures(Drafts):
        words.append(f"acceptance {list(drafts.acceptance)}")
    if pace := report.figures(Pace):
        words.append(f"with MTP x {pace.speedup:.2f} as fast")
    return ", ".join(words)


def _unmet(report: Report, policy: Policy) -> str | None:
    """The first demand of a policy beyond the recipe's that a report does not meet."""
    if policy.max_perplexity_ratio is not None:
        scored = report.figures(Perplexity)
        if scored is None:
            return "has no perplexity, the policy demands one"
        if scored.ratio > policy.max_perplexity_ratio:
            return (
                f"perplexity is {scored.ratio:.4f} times the base's, the policy takes "
                f"{policy.max_perplexity_ratio}"
            )
    if policy.min_acceptance:
        drafts = report.figures(Drafts)
        if drafts is None:
            return "has no acceptance of drafts, the policy demands it"
        if len(drafts.accepted) < len(policy.min_acceptance):
            return (
                f"has {len(drafts.accepted)} positions of drafts, the policy demands "
                f"{len(policy.min_acceptance)}"
            )
        pairs = zip(drafts.accepted, policy.min_acceptance, strict=False)
        for position, (accepted, least) in enumerate(pairs, start=1):
            if accepted / drafts.drafts < least:
                return (
                    f"of the drafts at position {position}, {accepted / drafts.drafts:.4f} were "
                    f"accepted, the policy demands {least}"
                )
    return _slow(report, policy)


def _slow(report: Report, policy: Policy) -> str | None:
    """Why the head does not make it as fast as a policy demands."""
    if policy.min_mtp_speedup is None:
        return None
    pace = report.figures(Pace)
    if pace is None:
        return "has no time with MTP and without, the policy demands it"
    if pace.speedup >= policy.min_mtp_speedup:
        return None
    return (
        f"with MTP it writes {pace.speedup:.4f} times as fast, the policy demands "
        f"{policy.min_mtp_speedup}"
    )
