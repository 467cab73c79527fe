"""`release.json`: every file of a release by digest and size, an in-toto statement of `release`.

With the sizes, a folder is held to its list before a byte of it is hashed.
The type: https://github.com/in-toto/attestation/blob/main/spec/predicates/release.md
"""

from collections.abc import Mapping
from typing import Annotated, Final, Literal, NamedTuple

from pydantic import AfterValidator, Field

from forge.core.model import Model
from forge.manifest.statement import TYPE, Digest, Resource, Statement, unique

PREDICATE_TYPE: Final = "https://in-toto.io/attestation/release/v0.1"


class Released(Model):
    """What is released."""

    purl: str = Field(
        description="A package URL: the variant, and as its version the SHA-256 of its manifest."
    )


class FileSize(Model):
    """The size of a released file."""

    bytes: int = Field(ge=0)


class ReleasedFile(Resource):
    """A file of the release."""

    annotations: FileSize


class Release(Statement[Released]):
    """The list of a release: every file but itself and the signatures."""

    subject: Annotated[tuple[ReleasedFile, ...], Field(min_length=1), AfterValidator(unique)]
    predicate_type: Literal["https://in-toto.io/attestation/release/v0.1"]


def purl(variant: str, manifest_sha256: str) -> str:
    """A release's name. A build is its own version: its manifest names all that it is made from."""
    return f"pkg:generic/{variant}@{manifest_sha256}"


class Content(NamedTuple):
    """What a file of a release is: its digest, and its size in bytes."""

    sha256: str
    bytes: int


def release(files: Mapping[str, Content], named: str) -> Release:
    """The list of a release's files, given by path."""
    return Release(
        _type=TYPE,
        subject=tuple(
            ReleasedFile(
                name=name,
                digest=Digest(sha256=content.sha256),
                annotations=FileSize(bytes=content.bytes),
            )
            for name, content in sorted(files.items())
        ),
        predicate_type=PREDICATE_TYPE,
        predicate=Released(purl=named),
    )
