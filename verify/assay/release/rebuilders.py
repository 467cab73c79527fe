"""Statements of those who rebuilt a release: written after a rebuild that gave the same bytes.

Each is an in-toto statement about the files that were rebuilt, signed by the rebuilder, in a
Sigstore bundle of its own. They are kept apart from the release, which is signed before them.
"""

import datetime
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from assay.release.trust import Key
from forge.core import canonical, foreign, placing
from forge.core.errors import DifferenceError, ManifestError, ReleaseError, SigningError
from forge.manifest import document, limits
from forge.manifest.names import STATEMENT
from forge.manifest.policy import KNOWN_BUILDERS
from forge.manifest.reproduction import (
    REBUILDER,
    Outcome,
    Rebuilder,
    Rebuilt,
    Reproduction,
    reproduction,
)
from forge.manifest.statement import digests, resource
from forge.release import bundle, keys
from forge.release.folder import provenance_of

# A clock that is further ahead is wrong.
SKEW = datetime.timedelta(days=1)


@dataclass(frozen=True, kw_only=True)
class Rebuildable:
    """What a statement about a release must say.

    Attributes:
        files: the sha256 of every file of the checkpoint, by path.
        tensors: how many tensors they hold.
        manifest_sha256: the digest of the release's manifest.
        finished: when the build ended.
        commits: those that a rebuild may have been made with.
        builder: the publisher's builder id.
        not_by: the key of the publisher, whose own rebuild is no second opinion.
    """

    files: Mapping[str, str]
    tensors: int
    manifest_sha256: str
    finished: str
    commits: Sequence[str]
    builder: str
    not_by: str | None


def attest_reproduction(
    folder: Path, report: Path, key: Path | None, builder: str | None, out: Path
) -> Path:
    """Signs that a release was reproduced; returns the bundle's file, in `out`.

    What is signed is what the rebuild compared, by the report. Of the folder only the manifest is
    looked at, so that nothing is signed about another release than the one that lies there.

    Raises:
        DifferenceError: it was not.
        ManifestError: the report is of another release.
        SigningError: there is no usable key, or the id is none that a rebuilder may have.
        FileSystemError: the system refused the file.
    """
    digest = canonical.sha256_file(provenance_of(folder) / STATEMENT)
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
        outcome.files,
        Rebuilt(
            builder=_rebuilder(builder, name),
            manifest=resource(STATEMENT, digest),
            compared=outcome.compared,
            verdict="identical",
            commit=outcome.commit,
            machine=outcome.machine,
            finished_on=outcome.finished_on,
        ),
    )
    target = out / f"{outcome.variant}.{name[:16]}.sigstore.json"
    placing.write(target, bundle.by_key(made.encoded(), signer))
    return target


def _rebuilder(stated: str | None, keyid: str) -> Rebuilder:
    """Who signs with a key: the id that is stated, or one that the key gives."""
    try:
        found = Rebuilder(id=_own(keyid) if stated is None else stated)
    except ValueError as error:
        raise SigningError(
            f"{stated!r:.200}: is no id of a rebuilder, which is a URI, such as https://example.org."
        ) from error
    if why := _not_own(found.id, keyid):
        raise SigningError(f"{found.id}: {why}, not that of key {keyid}.")
    return found


def _own(keyid: str) -> str:
    return f"{REBUILDER}{keyid[:16]}"


def _same_id(one: str) -> str:
    """An id as it is compared: spellings that a reader takes for one are one."""
    return one.casefold().rstrip("/")


def _not_own(stated: str, keyid: str) -> str | None:
    """Whose id it is, if it cannot be that of the one who has a key."""
    if _same_id(stated) in map(_same_id, KNOWN_BUILDERS):
        return "is the id of a builder that publishes"
    if _same_id(stated).startswith(REBUILDER) and _same_id(stated) != _own(keyid):
        return "is the id of another key"
    return None


def check(
    statements: Sequence[Path], rebuilders: Sequence[Key], release: Rebuildable
) -> tuple[set[str], list[str]]:
    """Which rebuilders have signed that these very files came out of this manifest.

    A rebuilder is an identity and a key: two keys with one id count once, and a key that states
    several ids not at all, in whatever order the statements are given.

    Args:
        statements: bundles.
        rebuilders: the keys that count, a rebuilder each.
        release: what they must be about.

    Returns:
        The ids that count, and why each other statement does not.
    """
    stated: dict[str, set[str]] = defaultdict(set)
    refused = []
    for path in statements:
        try:
            found, by = _read(path, rebuilders)
            _require_of(path, found, release)
            _require_other(path, found, by, release)
            stated[by].add(_same_id(found.predicate.builder.id))
        except (ReleaseError, ManifestError) as error:
            refused.append(str(error))
    counted: set[str] = set()
    for by, ids in sorted(stated.items()):
        if len(ids) > 1:
            refused.append(f"key {by} states {len(ids)} ids: {', '.join(sorted(ids))}.")
        elif ids <= counted:
            refused.append(f"key {by} states the id of another rebuilder, {', '.join(ids)}.")
        else:
            counted |= ids
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


def _require_of(path: Path, found: Reproduction, release: Rebuildable) -> None:
    """Refuses a statement that is not about all of a release, after it was built, by its code."""
    said = found.predicate
    if said.manifest.name != STATEMENT or said.manifest.digest.sha256 != release.manifest_sha256:
        raise ReleaseError(f"{path}: is of another release.")
    if digests(found.subject) != release.files:
        raise ReleaseError(f"{path}: is about other files than those here.")
    counts = (said.compared.files, said.compared.tensors)
    if counts != (len(release.files), release.tensors):
        raise ReleaseError(
            f"{path}: compared {counts[0]} files and {counts[1]} tensors, the release has "
            f"{len(release.files)} and {release.tensors}."
        )
    if said.commit not in release.commits:
        raise ReleaseError(
            f"{path}: was rebuilt with commit {said.commit}, expected is "
            f"{' or '.join(release.commits)}."
        )
    try:
        then = datetime.datetime.fromisoformat(said.finished_on)
    except ValueError as error:
        raise ReleaseError(f"{path}: states a time that there is not: {error}.") from error
    if then < datetime.datetime.fromisoformat(release.finished):
        raise ReleaseError(
            f"{path}: was rebuilt at {said.finished_on}, before it was built at {release.finished}."
        )
    if then > datetime.datetime.now(datetime.UTC) + SKEW:
        raise ReleaseError(f"{path}: was rebuilt at {said.finished_on}, which is yet to come.")


def _require_other(path: Path, found: Reproduction, by: str, release: Rebuildable) -> None:
    """Refuses the publisher's own rebuild, and an id that is somebody else's."""
    stated = found.predicate.builder.id
    if by == release.not_by:
        raise ReleaseError(f"{path}: is by the publisher of the release.")
    if _same_id(stated) == _same_id(release.builder):
        raise ReleaseError(f"{path}: states the id of the publisher's builder, {stated}.")
    if why := _not_own(stated, by):
        raise ReleaseError(f"{path}: states {stated}, which {why}.")
