"""What a verifier may demand of a release beyond that it is whole; a TOML file has this form."""

from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from forge.core.model import Commit, Maybe, Model, Sha256
from forge.manifest.provenance import BUILDERS, REHEARSALS
from forge.manifest.reproduction import same_id
from forge.manifest.trusted import MOST, KnownRebuilder, Recalled, Revoked, Signer, Time

KNOWN_BUILDERS = (*BUILDERS.values(), *REHEARSALS.values())
MOST_REBUILDERS = 1000
Rate = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Days = Annotated[int, Field(ge=1, le=36500)]
Builder = Annotated[str, StringConstraints(min_length=1, max_length=300)]


class Expected(Model):
    """Which release it must be. A key that is left out may be anything."""

    variant: Maybe[Annotated[str, Field(min_length=1, max_length=300)]] = None
    digest: Annotated[
        Maybe[Sha256],
        Field(
            description="The SHA-256 of its provenance.json, which is the version in its package "
            "URL. It names each byte of the checkpoint and all that it was made from."
        ),
    ] = None
    since: Annotated[
        Maybe[Time], Field(description="The date or time that its build did not end before.")
    ] = None
    commit: Annotated[
        Maybe[Commit], Field(description="The commit that built it, without further changes.")
    ] = None
    revision: Annotated[
        Maybe[Commit], Field(description="The commit of the base's repository.")
    ] = None
    formats: Annotated[
        Maybe[Annotated[tuple[Literal["nvfp4", "fp8"], ...], Field(min_length=1)]],
        Field(description="The formats of the quantized layers, all of them."),
    ] = None


class Policy(Model):
    """The demands. The default takes a real build of Hallmark, verified in structure at least."""

    builders: Annotated[
        tuple[Builder, ...],
        Field(
            min_length=1,
            max_length=MOST,
            description="Whose builds are taken, by builder id; by default no rehearsals.",
        ),
    ] = tuple(BUILDERS.values())
    expected: Annotated[
        Expected, Field(description="Which release it must be, where that is known.")
    ] = Expected()
    max_age_days: Annotated[
        Maybe[Days],
        Field(description="The largest age of a build in days, as the checker's clock has it."),
    ] = None
    max_rebuild_age_days: Annotated[
        Maybe[Days],
        Field(description="The same of the newest statement of a rebuilder that counts."),
    ] = None
    level: Annotated[
        Literal["structure", "all"], Field(description="How far the build must be verified.")
    ] = "structure"
    committed: Annotated[
        bool, Field(description="Whether it must be built from a commit without further changes.")
    ] = False
    max_perplexity_ratio: Annotated[
        Maybe[Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)]],
        Field(description="The largest perplexity, as a multiple of the base's."),
    ] = None
    min_acceptance: Annotated[
        tuple[Rate, ...],
        Field(
            max_length=16,
            description="The least share of the MTP head's drafts accepted, by position.",
        ),
    ] = ()
    min_mtp_speedup: Annotated[
        Maybe[Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)]],
        Field(description="How many times as fast as without its MTP head it must write."),
    ] = None
    reproductions: Annotated[
        int, Field(ge=0, le=MOST_REBUILDERS, description="How many others must have rebuilt it.")
    ] = 0
    rebuild_commits: Annotated[
        tuple[Commit, ...],
        Field(
            max_length=MOST,
            description="Commits that others may have rebuilt with, besides the release's own.",
        ),
    ] = ()
    expires: Annotated[
        Maybe[Time],
        Field(description="From when this file is not taken, since a newer one should be there."),
    ] = None
    keys: Annotated[
        tuple[Signer, ...],
        Field(
            min_length=1,
            max_length=MOST,
            description="The publisher's keys. If left out, whom to trust is named beside this.",
        ),
    ] = ()
    rebuilders: Annotated[
        tuple[KnownRebuilder, ...],
        Field(
            min_length=1,
            max_length=MOST,
            description="The keys of those who count as rebuilders. If left out, they are named "
            "beside this.",
        ),
    ] = ()
    revoked: Annotated[
        tuple[Revoked, ...], Field(max_length=MOST, description="Keys that no longer count.")
    ] = ()
    recalled: Annotated[
        tuple[Recalled, ...],
        Field(max_length=MOST, description="Releases that are no longer to be used."),
    ] = ()

    @model_validator(mode="after")
    def _require_distinct(self) -> Self:
        """One entry a key, name, id and release; who publishes is nobody who rebuilds."""
        holders = (*self.keys, *self.rebuilders)
        _require_once("the key", [one.sha256 for one in holders])
        _require_once("the name", [one.name.casefold() for one in holders])
        ids = [same_id(one.id) for one in self.rebuilders if one.id is not None]
        _require_once("the id", ids)
        _require_once("the revoked key", [one.sha256 for one in self.revoked])
        _require_once("the recalled release", [one.digest for one in self.recalled])
        for one in self.recalled:
            self.successor(one.digest)
        return self

    @model_validator(mode="after")
    def _require_enough(self) -> Self:
        if self.rebuilders and self.reproductions > len(self.rebuilders):
            raise ValueError(
                f"demands {self.reproductions} rebuilders and names {len(self.rebuilders)}"
            )
        return self

    def revocation(self, keyid: str) -> Revoked | None:
        """What is said of a key that no longer counts."""
        return next((one for one in self.revoked if one.sha256 == keyid), None)

    def recall(self, digest: str) -> Recalled | None:
        """What is said of a release that is no longer to be used."""
        return next((one for one in self.recalled if one.digest == digest), None)

    def successor(self, digest: str) -> str | None:
        """The release that stands for a recalled one in the end, which is itself not recalled.

        Raises:
            ValueError: each of some releases stands for another of them.
        """
        instead = {one.digest: one.superseded_by for one in self.recalled}
        seen, latest = {digest}, instead.get(digest)
        while latest in instead:
            if latest in seen:
                raise ValueError(f"the recalled release {latest} supersedes itself")
            seen.add(latest)
            latest = instead[latest]
        return latest


def _require_once(what: str, values: Sequence[str]) -> None:
    for number, value in enumerate(values):
        if value in values[:number]:
            raise ValueError(f"{what} {value} is named twice")
