"""Why a release cannot be reproduced here: something is not what its manifest says.

A rebuild from other inputs, with other code or from another record would prove nothing about the
release, so each of these is an error, which names the file, both digests and the way out.
"""

from collections.abc import Sequence
from pathlib import Path

from assay.release import sums
from assay.release.known import BESIDE, LOCK
from forge.core import canonical, checkout
from forge.core.errors import ManifestError
from forge.manifest.inputs import InputFile
from forge.manifest.names import PROVENANCE, STATEMENT, SUMS
from forge.manifest.provenance import Manifest, SourceTree
from forge.manifest.statement import digests

# Of all inputs, only this one does not go into the checkpoint.
SCORED_ONLY = "perplexity"


def require_whole(manifest: Manifest, provenance: Path) -> None:
    """Holds the files of the provenance folder to the manifest, and it to its SHA256SUMS.

    Raises:
        ManifestError: naming the first file that is not the manifest's, and both digests.
    """
    why = f" It was changed since {provenance / STATEMENT} was written: fetch both again."
    results = manifest.results
    for name in sorted({*BESIDE} | {n for n in results if _role(n) == PROVENANCE}):
        file = provenance / name.removeprefix(f"{PROVENANCE}/")
        _require(name, results.get(name), _sha256(file), why)
    listed = sums.read(provenance / SUMS)
    subjects = {n: d for n, d in digests(manifest.subject).items() if _role(n) != PROVENANCE}
    for name in sorted(listed.keys() | subjects.keys()):
        _require(f"{name} in {SUMS}", subjects.get(name), listed.get(name), why)


def require_checkout(manifest: Manifest) -> None:
    """Holds this checkout to the manifest: recipe, lock file, code.

    Raises:
        ManifestError: naming the first of them that is not the manifest's, and both digests.
    """
    why = f" {_checkout_remedy(manifest.commit)}"
    for name in (manifest.asked.recipe, LOCK):
        here = _sha256(checkout.ROOT / name)
        _require(name, manifest.dependencies.get(name), here, why)
    _require("the code of forge and assay", manifest.code, checkout.code_digest(), why)


def require_inputs(manifest: Manifest, inputs: Sequence[InputFile]) -> list[str]:
    """Holds every input that was fetched, as `inputs.json` lists them, to the manifest.

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
