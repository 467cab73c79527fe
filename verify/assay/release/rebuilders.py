"""Statements of those who rebuilt a release: written after a rebuild that gave the same bytes.

Each is an in-toto statement about the files that were rebuilt, signed by the rebuilder, in a
Sigstore bundle of its own. They are kept apart from the release, which is signed before them.
"""

import datetime
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from assay.release import publisher
from assay.release.trust import Key
from forge.core import canonical, foreign, placing
from forge.core.errors import DifferenceError, ManifestError, ReleaseError, SigningError
from forge.manifest import document, limits
from forge.manifest.names import STATEMENT
from forge.manifest.policy import KNOWN_BUILDERS, Policy
from forge.manifest.reproduction import (
    REBUILDER,
    Outcome,
    Rebuilder,
    Rebuilt,
    Reproduction,
    reproduction,
    same_id,
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
        commit: the one that it was built with, if any.
        builder: the publisher's builder id.
        signed_by: the key that signed it, if it was one.
        policy: says which other commits count, and what it knows of keys. The publisher's own
            rebuild is no second opinion, whichever of their keys signs it.
    """

    files: Mapping[str, str]
    tensors: int
    manifest_sha256: str
    finished: str
    commit: str | None
    builder: str
    signed_by: str | None
    policy: Policy

    @property
    def commits(self) -> list[str]:
        """Those that a rebuild may have been made with."""
        return [*([self.commit] if self.commit else []), *self.policy.rebuild_commits]

    @property
    def publishers(self) -> set[str | None]:
        """The keys of who publishes."""
        return {self.signed_by, *(one.sha256 for one in self.policy.keys)}


def attest_reproduction(
    folder: Path, report: Path, key: Path | None, builder: str | None, out: Path
) -> Path:
    """Signs that a release was reproduced; returns the bundle's file, in `out`.

    What is signed is what the rebuild compared, by the report. Of the folder only the manifest is
    looked at, so that nothing is signed about another release than the one that lies there.

    Raises:
        DifferenceError: it was not.
        ManifestError: the report is of another release.
        SigningError: there is no usable key, or a rebuilder may not have this id.
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


def _not_own(stated: str, keyid: str) -> str | None:
    """Whose id it is, if it cannot be that of the one who has a key."""
    if same_id(stated) in map(same_id, KNOWN_BUILDERS):
        return "is the id of a builder that publishes"
    if same_id(stated).startswith(REBUILDER) and same_id(stated) != _own(keyid):
        return "is the id of another key"
    return None


def check(
    statements: Sequence[Path], rebuilders: Sequence[Key], release: Rebuildable
) -> tuple[dict[str, str], list[str]]:
    """Which rebuilders have signed that these very files came out of this manifest.

    A rebuilder is an identity and a key: two keys with one id count once, and a key that states
    several ids not at all, in whatever order the statements are given.

    Args:
        statements: bundles.
        rebuilders: the keys that count, a rebuilder each.
        release: what they must be about.

    Returns:
        The ids that count, each with the time of its newest statement, and why each other
        statement does not.
    """
    stated: dict[str, dict[str, str]] = defaultdict(dict)
    refused = []
    for path in statements:
        try:
            found, by = _read(path, rebuilders)
            _require_of(path, found, release)
            _require_other(path, found, by, release)
            _require_known(path, found, by, release)
        except (ReleaseError, ManifestError) as error:
            refused.append(str(error))
            continue
        said = found.predicate
        name = same_id(said.builder.id)
        stated[by][name] = max(said.finished_on, stated[by].get(name, ""))
    counted: dict[str, str] = {}
    for by, times in sorted(stated.items()):
        if len(times) > 1:
            refused.append(f"key {by} states {len(times)} ids: {', '.join(sorted(times))}.")
        elif times.keys() <= counted.keys():
            refused.append(f"key {by} states the id of another rebuilder, {', '.join(times)}.")
        else:
            counted |= times
    return counted, refused


def require_enough(counted: Mapping[str, str], refused: Sequence[str], policy: Policy) -> str:
    """Holds those who rebuilt a release to what a policy demands: how many, and how lately.

    Args:
        counted: as of :func:`check`.
        refused: as of :func:`check`.
        policy: the demands.

    Returns:
        What was found, in a few words.

    Raises:
        ReleaseError: they are too few, or the newest statement is too old.
    """
    told = "; ".join(["", *refused])
    found = f"{len(counted)} rebuilders"
    if len(counted) < policy.reproductions:
        raise ReleaseError(f"{len(counted)} of {policy.reproductions} rebuilders demanded{told}")
    days = policy.max_rebuild_age_days
    if days is not None:
        newest = max(counted.values(), default=None)
        if newest is None:
            raise ReleaseError(f"none rebuilt it, and the policy demands a rebuild{told}")
        age = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(newest)
        if age > datetime.timedelta(days=days):
            raise ReleaseError(
                f"it was last rebuilt at {newest}, {age.days} days ago; at most {days} are "
                f"taken{told}"
            )
        found = f"{found}, the last {max(age.days, 0)} days ago"
    return f"{found}, {policy.reproductions} demanded{told}"


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
        raise ReleaseError(f"{path}: states a time that does not exist: {error}.") from error
    if then < datetime.datetime.fromisoformat(release.finished):
        raise ReleaseError(
            f"{path}: was rebuilt at {said.finished_on}, before it was built at {release.finished}."
        )
    if then > datetime.datetime.now(datetime.UTC) + SKEW:
        raise ReleaseError(f"{path}: was rebuilt at {said.finished_on}, which is in the future.")


def _require_other(path: Path, found: Reproduction, by: str, release: Rebuildable) -> None:
    """Refuses the publisher's own rebuild, and an id that is somebody else's."""
    stated = found.predicate.builder.id
    if by in release.publishers:
        raise ReleaseError(f"{path}: is by the publisher of the release.")
    if same_id(stated) == same_id(release.builder):
        raise ReleaseError(f"{path}: states the id of the publisher's builder, {stated}.")
    if why := _not_own(stated, by):
        raise ReleaseError(f"{path}: states {stated}, which {why}.")


def _require_known(path: Path, found: Reproduction, by: str, release: Rebuildable) -> None:
    """Refuses a key that does not count by the policy, or another id than it has for the key."""
    said, policy = found.predicate, release.policy
    if why := publisher.unfit(policy, by, said.finished_on, release.manifest_sha256):
        raise ReleaseError(f"{path}: is by key {by}, which {why}.")
    known = next((one for one in policy.rebuilders if one.sha256 == by), None)
    if known is None or known.id is None or same_id(known.id) == same_id(said.builder.id):
        return
    raise ReleaseError(f"{path}: states {said.builder.id}, the policy has {known.id} for its key.")
