"""`release.json`: every file of a release by digest, an in-toto statement of the type `release`.

The type: https://github.com/in-toto/attestation/blob/main/spec/predicates/release.md
"""

from collections.abc import Mapping
from typing import Final, Literal

from pydantic import Field

from forge.core.model import Model
from forge.manifest.statement import TYPE, Statement, subjects

PREDICATE_TYPE: Final = "https://in-toto.io/attestation/release/v0.1"


class Released(Model):
    """What is released."""

    purl: str = Field(
        description="A package URL: the variant, and as its version the SHA-256 of its manifest."
    )


class Release(Statement[Released]):
    """The list of a release: every file but itself and the signatures."""

    predicate_type: Literal["https://in-toto.io/attestation/release/v0.1"]


def purl(variant: str, manifest_sha256: str) -> str:
    """A release's name. A build is its own version: its manifest names all that it is made from."""
    return f"pkg:generic/{variant}@{manifest_sha256}"


def release(files: Mapping[str, str], named: str) -> Release:
    """The list of a release's files, given by path and sha256."""
    return Release(
        _type=TYPE,
        subject=subjects(files),
        predicate_type=PREDICATE_TYPE,
        predicate=Released(purl=named),
    )
