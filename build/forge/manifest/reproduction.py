"""What came of rebuilding a release: the outcome of a rebuild, and the rebuilder's statement."""

from collections.abc import Mapping
from typing import Annotated, Final, Literal

from pydantic import Field

from forge.core.machine import Machine
from forge.core.model import Model, Sha256, Timestamp
from forge.manifest.provenance import Builder, Revision
from forge.manifest.statement import TYPE, InToto, Resource, Statement, subjects

PREDICATE_TYPE: Final = "urn:hallmark:reproduction:v1"
Count = Annotated[int, Field(gt=0)]


class Compared(Model):
    """What was compared with the rebuild, and how much of it."""

    against: Literal["files", "digests"] = Field(
        description="The release's own files, or the digests that its provenance lists."
    )
    files: Count
    tensors: Count


class Outcome(Model):
    """What a rebuild found."""

    manifest: Sha256 = Field(description="The SHA-256 of the release's provenance.json.")
    identical: bool
    compared: Compared


class Rebuilt(InToto):
    """Who rebuilt which release, from which commit and on which machine."""

    builder: Builder
    manifest: Resource
    compared: Compared
    verdict: Literal["identical"]
    commit: Revision
    machine: Machine
    finished_on: Timestamp


class Reproduction(Statement[Rebuilt]):
    """A rebuilder's statement about the files that came out of a rebuild."""

    predicate_type: Literal["urn:hallmark:reproduction:v1"]


def reproduction(files: Mapping[str, str], predicate: Rebuilt) -> Reproduction:
    """The statement about files, given by path and sha256."""
    return Reproduction(
        _type=TYPE, subject=subjects(files), predicate_type=PREDICATE_TYPE, predicate=predicate
    )
