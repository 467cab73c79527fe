"""What a verifier may demand of a release beyond that it is whole; a TOML file has this form."""

import datetime
import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from forge.core.model import Commit, Maybe, Model, Sha256
from forge.manifest.provenance import BUILDERS, REHEARSALS

KNOWN_BUILDERS = (*BUILDERS.values(), *REHEARSALS.values())
MOST_REBUILDERS = 1000
Rate = Annotated[float, Field(ge=0, le=1)]
_DATE = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}([T ][0-9]{2}:[0-9]{2}:[0-9]{2}(Z|[+-][0-9]{2}:[0-9]{2}))?"
)


def _in_utc(text: str) -> str:
    """A date or a time as a time in UTC, spelled as a build spells its own."""
    if not _DATE.fullmatch(text):
        raise ValueError("must be a date, as 2026-11-28, or a time with its zone")
    try:
        found = datetime.datetime.fromisoformat(text)
        if found.tzinfo is None:
            found = found.replace(tzinfo=datetime.UTC)
        return found.astimezone(datetime.UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError) as error:
        raise ValueError(f"is a time that there is not: {error}") from error


Since = Annotated[
    str,
    AfterValidator(_in_utc),
    Field(description="A date in UTC, or a time with its zone."),
]


class Expected(Model):
    """Which release it must be. A key that is left out may be anything."""

    variant: Maybe[Annotated[str, Field(min_length=1)]] = None
    digest: Annotated[
        Maybe[Sha256],
        Field(
            description="The SHA-256 of its provenance.json, which is the version in its package "
            "URL. It names each byte of the checkpoint and all that it was made from."
        ),
    ] = None
    since: Annotated[
        Maybe[Since], Field(description="The date or time that its build did not end before.")
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
        tuple[str, ...],
        Field(
            min_length=1,
            description="Whose builds are taken, by builder id; by default no rehearsals.",
        ),
    ] = tuple(BUILDERS.values())
    expected: Annotated[
        Expected, Field(description="Which release it must be, where that is known.")
    ] = Expected()
    max_age_days: Annotated[
        Maybe[Annotated[int, Field(ge=1, le=36500)]],
        Field(description="The largest age of a build in days, as the checker's clock has it."),
    ] = None
    level: Annotated[
        Literal["structure", "all"], Field(description="How far the build must be verified.")
    ] = "structure"
    committed: Annotated[
        bool, Field(description="Whether it must be built from a commit without further changes.")
    ] = False
    max_perplexity_ratio: Annotated[
        Maybe[Annotated[float, Field(gt=0)]],
        Field(description="The largest perplexity, as a multiple of the base's."),
    ] = None
    min_acceptance: Annotated[
        tuple[Rate, ...],
        Field(description="The least share of the MTP head's drafts accepted, by position."),
    ] = ()
    reproductions: Annotated[
        int, Field(ge=0, le=MOST_REBUILDERS, description="How many others must have rebuilt it.")
    ] = 0
    rebuild_commits: Annotated[
        tuple[Commit, ...],
        Field(description="Commits that others may have rebuilt with, besides the release's own."),
    ] = ()
