"""The list of a release, read strictly: an in-toto statement of the type `release`."""

from typing import Annotated, Literal

from pydantic import Field

from assay.release.manifest import Model, Resources


class Predicate(Model):
    """What is released: the variant, and as its version the digest of its manifest."""

    purl: str


class Release(Model):
    """`release.json`."""

    type_: Annotated[Literal["https://in-toto.io/Statement/v1"], Field(alias="_type")]
    predicate_type: Literal["https://in-toto.io/attestation/release/v0.1"]
    subject: Resources
    predicate: Predicate
