"""What OpenSSF's model signing signs: https://github.com/sigstore/model-transparency."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from forge.core.model import Model, RelativePath, Sha256
from forge.manifest.names import MODEL_SIGNATURE, PROVENANCE
from forge.manifest.statement import Statement, unique

# What OpenSSF's model signing leaves out by itself.
_OF_GIT = frozenset({".gitattributes", ".gitignore"})


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


def of_model(names: Mapping[str, str]) -> dict[str, str]:
    """Those of a release's files that a model signature is over, by path."""
    return {name: one for name, one in names.items() if name.partition("/")[0] != PROVENANCE}


def unlike(signed: Mapping[str, str], here: Mapping[str, str]) -> str | None:
    """What a model signature has other than a release, which it is over but for git's files.

    Args:
        signed: the sha256 of each file that was signed, by path.
        here: that of each file of the release.

    Returns:
        The first difference in words, or None.
    """
    files = of_model(here)
    for name in sorted(files.keys() | signed.keys()):
        if files.get(name) != signed.get(name, files.get(name) if name in _OF_GIT else None):
            return (
                f"{name}: {MODEL_SIGNATURE} is over sha256 {signed.get(name, 'nothing')}, it is "
                f"{files.get(name, 'not there')}."
            )
    return None
