"""Why a release cannot be reproduced here: something is not what its manifest says.

A rebuild from other inputs, with other code or from another record would prove nothing about the
release, so each of these is an error, which names the file, both digests and the way out.
"""

from collections.abc import Sequence
from pathlib import Path

from assay.release.known import BESIDE
from forge import pipeline
from forge.core import canonical, checkout, closure, machine
from forge.core.errors import ManifestError
from forge.manifest import sums
from forge.manifest.inputs import InputFile
from forge.manifest.names import PROVENANCE, STATEMENT, SUMS
from forge.manifest.provenance import Manifest, SourceTree
from forge.manifest.statement import digests

# Of all inputs, only this one does not go into the checkpoint.
SCORED_ONLY = "perplexity"
# The steps that write the checkpoint; calibrate's part in it is the record.
WRITERS = ("quantize", "graft", "dress")


def require_whole(manifest: Manifest, provenance: Path) -> None:
    """Checks the files of the provenance folder by the manifest, and the manifest by SHA256SUMS.

    Raises:
        ManifestError: naming the first file that is not the manifest's, and both digests.
    """
    why = f" It was changed since {STATEMENT} was written: fetch both again."
    results = manifest.results
    for name in sorted({*BESIDE} | {n for n in results if _role(n) == PROVENANCE}):
        file = provenance / name.removeprefix(f"{PROVENANCE}/")
        _require(name, results.get(name), _sha256(file), why)
    listed = sums.read(provenance / SUMS)
    subjects = {n: d for n, d in digests(manifest.subject).items() if _role(n) != PROVENANCE}
    for name in sorted(listed.keys() | subjects.keys()):
        _require(f"{name} in {SUMS}", subjects.get(name), listed.get(name), why)


def require_checkout(manifest: Manifest) -> list[str]:
    """Compares this checkout with the manifest, as far as a byte of the checkpoint depends on it.

    That is the recipe, and of the steps that write the checkpoint the modules that they can reach
    and the versions of the distributions that those import.

    Returns:
        What else is not the manifest's: source files and lock files by path, and the systems.

    Raises:
        ManifestError: naming the first of them that is not the manifest's, and what is here.
    """
    why = f" {_checkout_remedy(manifest.commit)}"
    recipe = manifest.asked.recipe
    _require(recipe, manifest.dependencies.get(recipe), _sha256(checkout.ROOT / recipe), why)
    for name in WRITERS:
        _require_step(name, manifest, why)
    locks = {name: digest for name, digest in manifest.dependencies.items() if _is_lock(name)}
    here = {name: _sha256(checkout.ROOT / name) for name in locks} | checkout.source_digests()
    stated = {**locks, **manifest.source}
    others = sorted(n for n in stated.keys() | here.keys() if stated.get(n) != here.get(n))
    systems = {name: manifest.steps[name].annotations.system for name in WRITERS}
    return others + [f"the system of {n}" for n, one in systems.items() if one != machine.system()]


def _require_step(name: str, manifest: Manifest, why: str) -> None:
    """Holds the modules and distributions of a step to those that its record names."""
    step = manifest.steps.get(name)
    if step is None:
        raise ManifestError(f"step/{name}: the manifest has no record of it.{why}")
    record, here = step.annotations, closure.of(pipeline.module_of(name).__name__)
    for path, digest in here.digests().items():
        _require(path, manifest.source.get(path), digest, why)
    if record.code != here.code():
        raise ManifestError(
            f"step/{name}: its modules have the digest {record.code} in the manifest, here "
            f"{here.code()}, though each of them is equal: it reached others then.{why}"
        )
    versions = here.distributions()
    for package in sorted(record.distributions.keys() | versions.keys()):
        then, now = record.distributions.get(package), versions.get(package)
        if then != now:
            raise ManifestError(
                f"{package}: step/{name} ran with version {then or 'none'}, here is "
                f"{now or 'none'}.{why}"
            )


def _is_lock(name: str) -> bool:
    return name.startswith("lockfiles/")


def require_inputs(manifest: Manifest, inputs: Sequence[InputFile]) -> list[str]:
    """Compares every input that was fetched, as `inputs.json` lists them, with the manifest.

    Returns:
        The perplexity texts that are not the manifest's. A rehearsal takes the published text
        where it can be had, and no byte of the checkpoint depends on it.

    Raises:
        ManifestError: naming the first other input that is not the manifest's, and both digests.
    """
    here = {file.name: file for file in inputs}
    roles = {_role(name) for name in here}
    stated = {n: digest for n, digest in manifest.dependencies.items() if _role(n) in roles}
    differing = []
    for name in sorted(stated.keys() | here.keys()):
        found = here.get(name)
        sha256 = found.sha256 if found else None
        if sha256 == stated.get(name):
            continue
        if _role(name) != SCORED_ONLY:
            where = f"{name} (from {found.uri})" if found else name
            _require(where, stated.get(name), sha256, remedy="other-input")
        differing.append(name)
    return differing


def _role(name: str) -> str:
    """The first part of a name: an input's role, or the folder of a result."""
    return name.partition("/")[0]


def _checkout_remedy(commit: SourceTree | None) -> str:
    if commit is None:
        return "Check out the commit that it was built from; the manifest does not name it."
    changed = commit.annotations.uncommitted_changes
    but = "; it was built with changes that are in no commit" if changed else ""
    return f"Check out the commit that it was built from, {commit.digest.git_commit}{but}."


def _require(
    name: str, stated: str | None, here: str | None, why: str = "", *, remedy: str | None = None
) -> None:
    if stated is None or stated != here:
        raise ManifestError(
            f"{name}: the manifest says sha256 {stated or 'nothing'}, here is "
            f"{here or 'no such file'}.{why}",
            remedy=remedy,
        )


def _sha256(path: Path) -> str | None:
    return canonical.sha256_file(path) if path.is_file() else None
