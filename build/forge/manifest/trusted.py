"""Whom a checker trusts and no longer trusts: the tables of a policy file, as models.

Keys are named by the sha256 of their DER form, as everywhere. That a key has the name which stands
beside it is checked where keys are read.
"""

import datetime
import re
from typing import Annotated, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from forge.core.model import Maybe, Model, Sha256
from forge.manifest.reproduction import RebuilderId

MOST = 1000  # entries of a table
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
        raise ValueError(f"is a time that does not exist: {error}") from error


# Two of them are compared as the texts that they are.
Time = Annotated[
    str,
    AfterValidator(_in_utc),
    Field(description="A date in UTC, or a time with its zone."),
]
Words = Annotated[str, StringConstraints(min_length=1, max_length=300, pattern=r"\S")]
Variant = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$")]


class Holder(Model):
    """A key, whose it is and when it counts."""

    name: Annotated[Words, Field(description="Whose key it is, for people.")]
    sha256: Annotated[
        Sha256, Field(description="The key's name: the SHA-256 of the public key in DER.")
    ]
    pem: Annotated[str, Field(min_length=1, max_length=2000, description="The public key, in PEM.")]
    since: Annotated[
        Maybe[Time], Field(description="What was built or rebuilt before does not count.")
    ] = None
    until: Annotated[
        Maybe[Time], Field(description="Nor what was built or rebuilt at this time or later.")
    ] = None

    @model_validator(mode="after")
    def _require_some_time(self) -> Self:
        if self.since is not None and self.until is not None and self.since >= self.until:
            raise ValueError(f"the key {self.name!r} counts at no time: since is not before until")
        return self


class Signer(Holder):
    """A key of the publisher."""

    variants: Annotated[
        tuple[Variant, ...],
        Field(min_length=1, max_length=MOST, description="The variants that it may sign."),
    ]


class KnownRebuilder(Holder):
    """A key of somebody who rebuilds."""

    id: Annotated[
        Maybe[RebuilderId], Field(description="The id that its statements must have.")
    ] = None


class Revoked(Model):
    """A key that no longer counts, the publisher's or a rebuilder's."""

    sha256: Annotated[Sha256, Field(description="The key's name.")]
    reason: Words
    since: Annotated[
        Maybe[Time],
        Field(
            description="What was built or rebuilt before still counts. That time is what the "
            "holder of the key states. Leave it out if others may have the key."
        ),
    ] = None
    releases: Annotated[
        tuple[Sha256, ...],
        Field(max_length=MOST, description="Digests of releases that still count in any case."),
    ] = ()


class Recalled(Model):
    """A release that is no longer to be used."""

    digest: Annotated[Sha256, Field(description="The SHA-256 of its provenance.json.")]
    reason: Words
    superseded_by: Annotated[
        Maybe[Sha256], Field(description="The digest of the release to use instead.")
    ] = None
