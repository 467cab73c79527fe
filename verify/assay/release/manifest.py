"""Reads a release's manifest, strictly.

The form is in-toto's Statement v1 with the SLSA provenance v1 predicate. What is read of it must
be there with the right type; keys that are not known are passed over, as in-toto's parsing rules
ask (https://github.com/in-toto/attestation/blob/main/spec/v1/README.md#parsing-rules).
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from forge.calibration import record
from forge.core import canonical
from forge.core.errors import ManifestError
from forge.recipes.sources import RelativePath, Sha256
from forge.release import attest
from forge.release.folder import PROVENANCE

# No other environment's lock file counts: no step that writes a byte of the checkpoint runs there.
LOCK = "lockfiles/build.txt"
# What lies in the provenance beside the manifest that names it.
BESIDE = tuple(
    f"{PROVENANCE}/{name}"
    for name in (attest.SUMS, attest.TENSORS, record.FILE, attest.VERIFICATION)
)


class Model(BaseModel):
    """What is read of a statement: strict types, unknown keys passed over."""

    model_config = ConfigDict(strict=True, frozen=True, alias_generator=to_camel)


class Resource(Model):
    """An in-toto resource descriptor."""

    name: RelativePath
    digest: dict[str, str] = Field(min_length=1)
    annotations: dict[str, Any] = Field(default_factory=dict)


def _unique(resources: tuple[Resource, ...]) -> tuple[Resource, ...]:
    names = [resource.name for resource in resources]
    if doubled := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"{doubled!r} stands twice")
    return resources


Resources = Annotated[tuple[Resource, ...], Field(min_length=1), AfterValidator(_unique)]


class External(Model):
    """What the builder was asked for.

    A parameter that is not known here may have changed what was built, so it is refused, as SLSA
    asks (https://slsa.dev/spec/v1.0/verifying-artifacts).
    """

    model_config = ConfigDict(extra="forbid")

    source: str
    target: str
    recipe: RelativePath

    @model_validator(mode="after")
    def _recipe_is_the_targets(self) -> Self:
        if self.recipe != f"build/variants/{self.target}.toml":
            raise ValueError(f"{self.recipe!r} is not the recipe of {self.target!r}")
        return self


class Internal(Model):
    """What the builder says of itself, as far as a rebuild depends on it."""

    code_sha256: Annotated[Sha256, Field(alias="code_sha256")]


class Definition(Model):
    """What was built from what."""

    build_type: Literal["urn:hallmark:build:v1"]
    external_parameters: External
    internal_parameters: Internal
    resolved_dependencies: Resources


class Builder(Model):
    """Who built."""

    id: str


class Details(Model):
    """How it went."""

    builder: Builder
    byproducts: Resources


class Predicate(Model):
    """SLSA provenance."""

    build_definition: Definition
    run_details: Details


class Manifest(Model):
    """`provenance.json`."""

    type_: Annotated[Literal["https://in-toto.io/Statement/v1"], Field(alias="_type")]
    predicate_type: Literal["https://slsa.dev/provenance/v1"]
    subject: Resources
    predicate: Predicate

    @property
    def asked(self) -> External:
        """What the builder was asked for."""
        return self.predicate.build_definition.external_parameters

    @property
    def dependencies(self) -> dict[str, str]:
        """The sha256 of every file that the release was made from, by name."""
        return digests(self.predicate.build_definition.resolved_dependencies)

    @property
    def results(self) -> dict[str, str]:
        """The sha256 of every file of the release but this one, by path, and of step records."""
        return digests(self.subject) | digests(self.predicate.run_details.byproducts)

    @property
    def code(self) -> str:
        """The digest of the packages that built it."""
        return self.predicate.build_definition.internal_parameters.code_sha256

    @property
    def commit(self) -> Resource | None:
        """The commit that it was built from, if the manifest names it."""
        resources = self.predicate.build_definition.resolved_dependencies
        return next((one for one in resources if "gitCommit" in one.digest), None)


Parsed = TypeVar("Parsed", bound=BaseModel)


def digests(resources: tuple[Resource, ...]) -> dict[str, str]:
    """The sha256 of those resources that have one, by name."""
    return {one.name: one.digest["sha256"] for one in resources if "sha256" in one.digest}


def read(provenance: Path) -> Manifest:
    """The manifest of a provenance folder.

    Raises:
        ManifestError: it cannot be read, or is not of the form that Hallmark writes.
    """
    path = provenance / attest.STATEMENT
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read: {error}. Fetch the release again.") from error
    return parse(Manifest, data, str(path))


def parse(model: type[Parsed], data: bytes, where: str) -> Parsed:
    """A document of the form `model`; `where` names it in messages.

    Raises:
        ManifestError: it is not of that form, or not JSON that all readers agree on.
    """
    try:
        return model.model_validate_json(canonical.dumps(canonical.loads(data)))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        kind, count = model.__name__.lower(), error.error_count()
        raise ManifestError(
            f"{where}: no {kind} of Hallmark, {count} mistake(s), first {key}: {first['msg']}; "
            f"the value is {first['input']!r:.200}. Fetch the release again."
        ) from error
    except ValueError as error:
        raise ManifestError(
            f"{where}: cannot be read: {error}. Fetch the release again."
        ) from error
