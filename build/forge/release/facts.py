"""What a finished build says of itself, for its model card and its report.

Everything here comes out of the folder's provenance and out of the recipe that the manifest names
by digest. What was not measured is None or empty.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forge.calibration import record
from forge.core import canonical, checkout
from forge.core.errors import RecipeError
from forge.recipes import recipe
from forge.recipes.recipe import Recipe
from forge.release import attest
from forge.release.folder import ERRORS, provenance_of
from forge.tensors import parts as tensors
from forge.tensors.parts import Part
from forge.tensors.quantization_error import Error, parse

LICENCES = {
    "apache-2.0": re.compile(r"Apache License,?\s+Version 2\.0"),
    "mit": re.compile(r"\bMIT License\b"),
}


@dataclass(frozen=True, kw_only=True)
class Input:
    """What was fetched for one role."""

    role: str
    uri: str
    files: int
    nbytes: int


@dataclass(frozen=True, kw_only=True)
class Facts:
    """A build in figures.

    `perplexity` and `acceptance` are what their checks measured; `errors` are there if the base
    was at hand when the release was assembled.
    """

    recipe: Recipe
    rehearsal: bool
    builder: str
    source: str
    finished: str
    commit: str | None
    level: str
    passed: bool
    checks: tuple[Mapping[str, Any], ...]
    parts: tuple[Part, ...]
    inputs: tuple[Input, ...]
    base_nbytes: int
    calibrated: Mapping[str, Any]
    perplexity: Mapping[str, Any] | None
    acceptance: Mapping[str, Any] | None
    errors: tuple[Error, ...]
    licence: str | None

    @property
    def nbytes(self) -> int:
        """The bytes of all tensors."""
        return sum(part.nbytes for part in self.parts)

    @property
    def vision(self) -> bool:
        """Whether the result sees pictures."""
        return any("vision" in part.name for part in self.parts)


def read(folder: Path) -> Facts:
    """The facts of a release folder.

    Raises:
        RecipeError: the recipe here is not the one that the manifest names.
        FetchError: the folder is no release.
    """
    provenance = provenance_of(folder)
    predicate = canonical.read(provenance / attest.STATEMENT)["predicate"]
    definition, details = predicate["buildDefinition"], predicate["runDetails"]
    report = canonical.read(provenance / attest.VERIFICATION)
    variant = _recipe(definition)
    lines = (provenance / attest.TENSORS).read_text(encoding="utf-8").splitlines()
    dependencies = definition["resolvedDependencies"]
    errors = provenance / ERRORS
    return Facts(
        recipe=variant,
        rehearsal=details["builder"]["id"] in attest.REHEARSALS.values(),
        builder=details["builder"]["id"],
        source=definition["externalParameters"]["source"],
        finished=details["metadata"]["finishedOn"],
        commit=_commit(dependencies),
        level=report["level"],
        passed=report["passed"],
        checks=tuple(report["checks"]),
        parts=tensors.of(variant, [canonical.loads(line.encode()) for line in lines]),
        inputs=_inputs(dependencies),
        base_nbytes=sum(
            entry["annotations"]["bytes"]
            for entry in dependencies
            if entry["name"].startswith("base/") and entry["name"].endswith(".safetensors")
        ),
        calibrated=record.origin(provenance / record.FILE),
        perplexity=_measured(report, "base", "result", "ratio"),
        acceptance=_measured(report, "acceptance", "drafts"),
        errors=tuple(parse(errors.read_text(encoding="utf-8"))) if errors.is_file() else (),
        licence=_licence(folder / "LICENSE"),
    )


def _recipe(definition: Mapping[str, Any]) -> Recipe:
    asked = definition["externalParameters"]
    stated = {one["name"]: one["digest"] for one in definition["resolvedDependencies"]}
    here = canonical.sha256_file(checkout.ROOT / asked["recipe"])
    if stated[asked["recipe"]]["sha256"] != here:
        raise RecipeError(
            f"{asked['recipe']}: was changed since this was built, so its card would tell of "
            "another recipe. Build again, or check out the commit that it was built from."
        )
    return recipe.find(asked["target"])


def _commit(dependencies: Iterable[Mapping[str, Any]]) -> str | None:
    """The commit that it was built from; None if it was not built from what is committed."""
    for one in dependencies:
        if "gitCommit" in one["digest"] and not one["annotations"]["uncommitted_changes"]:
            return str(one["digest"]["gitCommit"])
    return None


def _inputs(dependencies: Iterable[Mapping[str, Any]]) -> tuple[Input, ...]:
    """The fetched files of each role; our own files have no URI."""
    found: dict[tuple[str, str], list[int]] = defaultdict(list)
    for one in dependencies:
        if "bytes" in one.get("annotations", {}):
            role, uri = one["name"].partition("/")[0], one["uri"].partition("#")[0]
            found[role, uri].append(one["annotations"]["bytes"])
    return tuple(
        Input(role=role, uri=uri, files=len(sizes), nbytes=sum(sizes))
        for (role, uri), sizes in sorted(found.items())
    )


def _measured(report: Mapping[str, Any], *keys: str) -> Mapping[str, Any] | None:
    """What the first check measured that measured all of this."""
    measured = (check["measured"] for check in report["checks"])
    return next((one for one in measured if one.keys() >= {*keys}), None)


def _licence(path: Path) -> str | None:
    """The hub's identifier of a licence text, or None if it is not one of those known here."""
    if not path.is_file():
        return None
    text = path.read_text(encoding="utf-8", errors="replace")[:1000]
    return next((name for name, pattern in LICENCES.items() if pattern.search(text)), None)
