"""What came of rebuilding a release: the outcome of a rebuild, and the rebuilder's statement."""

from collections.abc import Mapping
from typing import Annotated, Final, Literal

from pydantic import Field, StringConstraints

from forge.core.machine import Machine
from forge.core.model import Model, RelativePath, Sha256, Timestamp
from forge.manifest.provenance import Revision
from forge.manifest.statement import TYPE, InToto, Resource, Statement, subjects

PREDICATE_TYPE: Final = "urn:hallmark:reproduction:v1"
# The id of one who states none: this, and the first digits of the key's name.
REBUILDER: Final = "urn:hallmark:rebuilder:"
Count = Annotated[int, Field(gt=0)]
RebuilderId = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9+.-]*:[!-~]{1,200}$"),
    Field(description="A URI."),
]


class Compared(Model):
    """What was compared with the rebuild, and how much of it."""

    against: Literal["files", "digests"] = Field(
        description="The release's own files, or the digests that its provenance lists."
    )
    files: Count
    tensors: Count


class Outcome(Model):
    """What a rebuild found, all that a statement about it says included."""

    variant: str
    manifest: Sha256 = Field(description="The SHA-256 of the release's provenance.json.")
    identical: bool
    compared: Compared
    files: dict[RelativePath, Sha256] = Field(
        description="What the rebuild wrote and was compared: SHA-256 by path."
    )
    commit: Revision
    machine: Machine
    finished_on: Timestamp


class Rebuilder(Model):
    """Who rebuilt."""

    id: RebuilderId


class Rebuilt(InToto):
    """Who rebuilt which release, from which commit and on which machine."""

    builder: Rebuilder
    manifest: Resource
    compared: Compared
    verdict: Literal["identical"]
    commit: Revision
    machine: Machine
    finished_on: Timestamp


class Reproduction(Statement[Rebuilt]):
    """A rebuilder's statement about the files that came out of a rebuild."""

    predicate_type: Literal["urn:hallmark:reproduction:v1"]


def same_id(one: str) -> str:
    """An id as it is compared: spellings that a reader takes for one are one."""
    return one.casefold().rstrip("/")


def reproduction(files: Mapping[str, str], predicate: Rebuilt) -> Reproduction:
    """The statement about files, given by path and sha256."""
    return Reproduction(
        _type=TYPE, subject=subjects(files), predicate_type=PREDICATE_TYPE, predicate=predicate
    )
