"""The facts of a finished build, for its model card and its report.

All of them come from the folder's provenance and from the recipe that the manifest names by digest.
A fact that was not measured is None or empty.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forge.calibration import record
from forge.core import canonical, checkout
from forge.core.errors import RecipeError
from forge.manifest import document
from forge.manifest import provenance as manifests
from forge.manifest.licences import identified
from forge.manifest.names import ERRORS, TENSORS, VERIFICATION
from forge.manifest.probe_figures import Pace
from forge.manifest.provenance import Manifest
from forge.manifest.served_figures import EMULATED, Drafts, Health, Perplexity
from forge.manifest.stored_figures import Ignore, Parallel
from forge.manifest.tensor_list import TensorLine
from forge.manifest.verification import Check, Report
from forge.recipes import recipe
from forge.recipes.recipe import Recipe
from forge.release.folder import provenance_of
from forge.tensors import parts as tensors
from forge.tensors import tensor_list
from forge.tensors.parts import Part
from forge.tensors.weight_errors import Error, parse

LICENCE = "LICENSE"


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

    `perplexity`, `acceptance`, `pace`, `parallel` and `names` are what their checks measured;
    `errors` are there if the build was verified.
    """

    recipe: Recipe
    rehearsal: bool
    builder: str
    source: str
    finished: str
    commit: str | None
    level: str
    passed: bool
    checks: tuple[Check[Any, Any], ...]
    parts: tuple[Part, ...]
    inputs: tuple[Input, ...]
    base_nbytes: int
    calibrated: Mapping[str, Any]
    perplexity: Perplexity | None
    acceptance: Drafts | None
    pace: Pace | None
    parallel: Parallel | None
    names: Ignore | None
    errors: tuple[Error, ...]
    licence: str | None

    @property
    def nbytes(self) -> int:
        """The bytes of all tensors."""
        return sum(part.nbytes for part in self.parts)

    @property
    def emulated(self) -> bool:
        """Whether what was served was computed by a CPU, which has no FP4."""
        found = (check.measured for check in self.checks)
        healths = (measured for measured in found if isinstance(measured, Health))
        notes = (note for health in healths for note in health.adaptations)
        return any(note.startswith(EMULATED) for note in notes)

    @property
    def vision(self) -> bool:
        """Whether the result sees pictures."""
        return any("vision" in part.name for part in self.parts)


def read(folder: Path) -> Facts:
    """The facts of a release folder.

    Raises:
        RecipeError: the recipe here is not the one that the manifest names.
        FetchError: the folder is no release.
        ManifestError: a document of its provenance is malformed.
    """
    provenance = provenance_of(folder)
    stated = manifests.read(provenance)
    errors, licence = provenance / ERRORS, folder / LICENCE
    return of(
        stated,
        _recipe(stated),
        document.read(Report, provenance / VERIFICATION),
        lines=tensor_list.read(provenance / TENSORS).values(),
        calibrated=record.origin(provenance / record.FILE),
        errors=errors.read_bytes() if errors.is_file() else b"",
        licence=licence.read_bytes() if licence.is_file() else None,
    )


def of(
    stated: Manifest,
    variant: Recipe,
    report: Report,
    *,
    lines: Collection[TensorLine],
    calibrated: Mapping[str, Any],
    errors: bytes,
    licence: bytes | None,
) -> Facts:
    """The facts of a release, by its documents.

    Args:
        stated: its manifest.
        variant: the recipe that the manifest names.
        report: what the assay found.
        lines: the stored tensors.
        calibrated: where the calibration record comes from.
        errors: the list of the linears' errors, empty if there is none.
        licence: the text of the licence, if there is one.
    """
    return Facts(
        recipe=variant,
        rehearsal=stated.rehearsal,
        builder=stated.builder,
        source=stated.asked.source,
        finished=stated.finished,
        commit=_commit(stated),
        level=report.level,
        passed=report.passed,
        checks=report.checks,
        parts=tensors.of(variant, lines),
        inputs=_inputs(stated),
        base_nbytes=stated.base_bytes,
        calibrated=calibrated,
        perplexity=report.figures(Perplexity),
        acceptance=report.figures(Drafts),
        pace=report.figures(Pace),
        parallel=report.figures(Parallel),
        names=report.figures(Ignore),
        errors=tuple(parse(errors.decode())),
        licence=None if licence is None else identified(licence),
    )


def _recipe(stated: Manifest) -> Recipe:
    asked = stated.asked
    here = canonical.sha256_file(checkout.ROOT / asked.recipe)
    if stated.dependencies.get(asked.recipe) != here:
        raise RecipeError(
            f"{asked.recipe}: was changed since this was built, so its card would tell of "
            "another recipe. Build again, or check out the commit that it was built from."
        )
    return recipe.find(asked.target)


def _commit(stated: Manifest) -> str | None:
    """The commit that it was built from; None if it was not built from what is committed."""
    tree = stated.commit
    if tree is None or tree.annotations.uncommitted_changes:
        return None
    return tree.digest.git_commit


def _inputs(stated: Manifest) -> tuple[Input, ...]:
    """The fetched files of each role."""
    found: dict[tuple[str, str], list[int]] = defaultdict(list)
    for one in stated.inputs:
        found[one.role, one.uri.partition("#")[0]].append(one.annotations.bytes)
    return tuple(
        Input(role=role, uri=uri, files=len(sizes), nbytes=sum(sizes))
        for (role, uri), sizes in sorted(found.items())
    )
