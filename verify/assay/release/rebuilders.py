"""Statements of those who rebuilt a release: written after a rebuild that gave the same bytes.

Each is an in-toto statement about the files that were rebuilt, signed by the rebuilder, in a
Sigstore bundle of its own. They are kept apart from the release, which is signed before them.
"""

import datetime
from collections.abc import Sequence
from pathlib import Path

from assay.release.trust import Key
from forge.core import canonical, checkout, foreign, machine, placing
from forge.core.errors import DifferenceError, ManifestError, ReleaseError, SigningError
from forge.manifest import document, limits, sums
from forge.manifest import provenance as manifests
from forge.manifest.names import STATEMENT, SUMS
from forge.manifest.provenance import Builder
from forge.manifest.reproduction import Outcome, Rebuilt, Reproduction, reproduction
from forge.manifest.statement import digests, resource
from forge.release import bundle, keys
from forge.release.folder import provenance_of


def attest_reproduction(
    folder: Path, report: Path, key: Path | None, builder: str | None, out: Path
) -> Path:
    """Signs that a release was reproduced; returns the bundle's file, in `out`.

    Raises:
        DifferenceError: it was not.
        ManifestError: the report is of another release.
        SigningError: there is no usable key.
        FileSystemError: the system refused the file.
    """
    provenance = provenance_of(folder)
    stated = manifests.read(provenance)
    digest = canonical.sha256_file(provenance / STATEMENT)
    outcome = document.read(Outcome, report)
    if outcome.manifest != digest:
        raise ManifestError(f"{report}: is of another release; reproduce {folder} again.")
    if not outcome.identical:
        raise DifferenceError(f"{folder}: is not reproduced, so nothing is signed.")
    if key is None:
        raise SigningError(
            "a reproduction is signed with a key, and none is given.", remedy="no-key"
        )
    signer = keys.signer(key)
    name = signer.public_key.keyid
    made = reproduction(
        sums.read(provenance / SUMS),
        Rebuilt(
            builder=Builder(id=builder or f"urn:hallmark:rebuilder:{name[:16]}"),
            manifest=resource(STATEMENT, digest),
            compared=outcome.compared,
            verdict="identical",
            commit=checkout.commit()[0],
            machine=machine.machine(),
            finished_on=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        ),
    )
    target = out / f"{stated.asked.target}.{name[:16]}.sigstore.json"
    placing.write(target, bundle.by_key(made.encoded(), signer))
    return target


def check(
    statements: Sequence[Path],
    rebuilders: Sequence[Key],
    *,
    files: dict[str, str],
    manifest_sha256: str,
    not_by: str | None,
) -> tuple[set[str], list[str]]:
    """Which rebuilders have signed that these very files came out of this manifest.

    Args:
        statements: bundles.
        rebuilders: the keys that count, a rebuilder each.
        files: the sha256 of every file of the checkpoint, by path.
        manifest_sha256: the digest of the release's manifest.
        not_by: the key of the publisher, whose own rebuild is no second opinion.

    Returns:
        The names of their keys, and why each other statement does not count.
    """
    counted: set[str] = set()
    refused = []
    for path in statements:
        try:
            found, by = _read(path, rebuilders)
            _require_of(path, found, files, manifest_sha256)
            if by == not_by:
                refused.append(f"{path}: is by the publisher of the release.")
            else:
                counted.add(by)
        except (ReleaseError, ManifestError) as error:
            refused.append(str(error))
    return counted, refused


def _read(path: Path, rebuilders: Sequence[Key]) -> tuple[Reproduction, str]:
    """A statement, and the name of the rebuilder's key that signed it."""
    data = foreign.read(path, limits.MOST_BUNDLE)
    material = bundle.read(data, str(path)).verification_material
    named = material.public_key.hint if material.public_key else "no key"
    key = next((one for one in rebuilders if one.key.keyid == named), None)
    if key is None:
        raise ReleaseError(f"{path}: names {named}, which is no key of the rebuilders given.")
    signed = key.check(data, str(path))
    return document.parse(Reproduction, signed, str(path)), key.key.keyid


def _require_of(
    path: Path, found: Reproduction, files: dict[str, str], manifest_sha256: str
) -> None:
    if found.predicate.manifest.digest.sha256 != manifest_sha256:
        raise ReleaseError(f"{path}: is of another release.")
    if digests(found.subject) != files:
        raise ReleaseError(f"{path}: is about other files than those here.")
