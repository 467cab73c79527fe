"""What OpenSSF's model signing signs: https://github.com/sigstore/model-transparency."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from forge.core.model import Model, RelativePath, Sha256
from forge.manifest.statement import Statement, unique


class ModelFile(Model):
    """A file of the model."""

    name: RelativePath
    algorithm: Literal["sha256"]
    digest: Sha256


class SignedModel(Model):
    """The files, and how they were chosen and hashed."""

    resources: Annotated[tuple[ModelFile, ...], Field(min_length=1), AfterValidator(unique)]
    serialization: dict[str, Any]


class ModelSignature(Statement[SignedModel]):
    """The statement about a model; its one subject is named as the folder was."""

    predicate_type: Literal["https://model_signing/signature/v1.0"]

    @property
    def files(self) -> dict[str, str]:
        """The sha256 of every file by path."""
        return {one.name: one.digest for one in self.predicate.resources}
