"""`provenance.json`: what a build was made from, by whom and how, as SLSA provenance v1.

The predicate: https://slsa.dev/spec/v1.0/provenance. What that leaves to the build type, Hallmark's
own keys, is in snake case. A key that is not known is refused: a parameter that this version does
not know may have changed what was built.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    AfterValidator,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    model_validator,
)

from forge.core import canonical
from forge.core.files import SourceKind
from forge.core.machine import Machine
from forge.core.model import Level, Model, RelativePath, Sha256, Timestamp
from forge.manifest import document
from forge.manifest.document import FormerError
from forge.manifest.inputs import InputFile
from forge.manifest.names import STATEMENT
from forge.manifest.statement import (
    TYPE,
    Digest,
    InToto,
    Resource,
    Statement,
    digests,
    subjects,
    unique,
)

PREDICATE_TYPE: Final = "https://slsa.dev/provenance/v1"
BUILD_TYPE: Final = "urn:hallmark:build:v2"
FORMER_BUILD_TYPE = "urn:hallmark:build:v1"
BUILDERS = {"host": "urn:hallmark:builder:host", "image": "urn:hallmark:builder:image"}
# A rehearsal is no release wherever it ran, so its builder is another one in either place.
REHEARSALS = {
    "host": "urn:hallmark:builder:rehearsal",
    "image": "urn:hallmark:builder:rehearsal:image",
}
STEP = "step/"
# Names of resolved dependencies that are no input and no file of the source tree.
SOURCE: Final = "hallmark"
IMAGE: Final = "image"
BASE_IMAGE: Final = "image/base"
SOURCE_FOLDERS = ("build/", "lockfiles/")

# A commit, or "unknown" where the source tree is no git checkout.
Revision = Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{40}|unknown)$")]


class External(Model):
    """What the builder was asked for."""

    source: str = Field(description="The base, by its URI.")
    target: str = Field(description="The variant.")
    recipe: RelativePath = Field(description="The variant's recipe, by its path in the source.")

    @model_validator(mode="after")
    def _recipe_is_the_targets(self) -> Self:
        if self.recipe != recipe_of(self.target):
            raise ValueError(f"{self.recipe!r} is not the recipe of {self.target!r}")
        return self


class Internal(Model):
    """What the builder says of itself."""

    source: dict[RelativePath, Sha256] = Field(
        description="Every file of the packages that built: SHA-256 by path."
    )
    fetched_from: dict[str, SourceKind] = Field(
        description="Where each input came from, by its role."
    )
    machine: Machine
    verified: Level = Field(description="How far the result was verified.")


class InputSize(Model):
    """The size of an input file."""

    bytes: int = Field(ge=0)


class Input(Resource):
    """A file that was fetched; its name begins with its role."""

    uri: str = Field(description="The repository at its commit, and the file in it.")
    annotations: InputSize

    @property
    def role(self) -> str:
        """The input that it is a file of."""
        return self.name.partition("/")[0]


class SourceFile(Resource):
    """A file of the source tree: the recipe or a lock file."""


class GitCommit(InToto):
    """The digest of a commit."""

    git_commit: Revision


class TreeState(Model):
    """Whether the source tree had changes that are in no commit."""

    uncommitted_changes: bool


class SourceTree(InToto):
    """The source tree that built."""

    name: Literal["hallmark"]
    uri: Literal["pkg:generic/hallmark"]
    digest: GitCommit
    annotations: TreeState


class ImageContents(Model):
    """The digest of an image's layers, and its labels."""

    layers_sha256: Sha256
    labels: dict[str, str]


class Image(Resource):
    """The container image that it was built in."""

    name: Literal["image"]
    annotations: ImageContents


class BaseImage(Resource):
    """The image that this one begins with."""

    name: Literal["image/base"]
    uri: str


def _kind(value: Any) -> str:
    """Which dependency it is, by its name; an input if it is nothing else."""
    name = value.get("name") if isinstance(value, dict) else getattr(value, "name", None)
    if not isinstance(name, str):
        return "input"
    if name in {SOURCE, IMAGE, BASE_IMAGE}:
        return name
    return "file" if name.startswith(SOURCE_FOLDERS) else "input"


AnyDependency = Annotated[
    Annotated[Input, Tag("input")]
    | Annotated[SourceFile, Tag("file")]
    | Annotated[SourceTree, Tag("hallmark")]
    | Annotated[Image, Tag("image")]
    | Annotated[BaseImage, Tag("image/base")],
    Discriminator(_kind),
]
Dependencies = Annotated[tuple[AnyDependency, ...], Field(min_length=1), AfterValidator(unique)]


class StepRecord(Model):
    """What a step did: the key of its result, and what went into that key."""

    key: str
    started: Timestamp
    finished: Timestamp
    parameters: dict[str, Any] = Field(description="What decides its outcome besides its inputs.")
    needs: dict[str, dict[RelativePath, Sha256]] = Field(
        description="What it read: SHA-256 by step and path."
    )
    code: Sha256 | None = Field(
        description="The SHA-256 of the modules that it can reach; null if no step made it."
    )
    distributions: dict[str, str] = Field(
        description="The versions of what those modules import, by name."
    )
    system: dict[str, str | None] = Field(
        description="Interpreter, processor and image; null where nothing pins it."
    )
    outputs: dict[RelativePath, Sha256] = Field(description="What it wrote: SHA-256 by path.")

    @property
    def sha256(self) -> str:
        """The digest of the record as canonical JSON."""
        return canonical.sha256_text(canonical.dumps(self.as_json()))


class Step(Resource):
    """A step, `step/<name>`, with its record and the digest of that."""

    annotations: StepRecord


def _is_step(value: Any) -> str:
    name = value.get("name") if isinstance(value, dict) else getattr(value, "name", None)
    return "step" if isinstance(name, str) and name.startswith(STEP) else "file"


AnyByproduct = Annotated[
    Annotated[Resource, Tag("file")] | Annotated[Step, Tag("step")], Discriminator(_is_step)
]
Byproducts = Annotated[tuple[AnyByproduct, ...], Field(min_length=1), AfterValidator(unique)]


class Definition(InToto):
    """What was built from what."""

    build_type: Literal["urn:hallmark:build:v2"]
    external_parameters: External
    internal_parameters: Internal
    resolved_dependencies: Dependencies


class Builder(Model):
    """Who built."""

    id: str


class Metadata(InToto):
    """When the first step began and the last one ended."""

    started_on: Timestamp
    finished_on: Timestamp


class Details(InToto):
    """How it went: files beside the checkpoint, and what each step did."""

    builder: Builder
    metadata: Metadata
    byproducts: Byproducts


class Provenance(InToto):
    """SLSA provenance."""

    build_definition: Definition
    run_details: Details


class Manifest(Statement[Provenance]):
    """The statement about a build: its subjects are the files of the checkpoint."""

    predicate_type: Literal["https://slsa.dev/provenance/v1"]

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """As every document's, but a former build type is told before any other mistake.

        Raises:
            FormerError: its build type is a former one.
        """
        found = canonical.loads(data)
        for key in ("predicate", "buildDefinition", "buildType"):
            found = found.get(key) if isinstance(found, dict) else None
        if found == FORMER_BUILD_TYPE:
            raise FormerError(
                f"its build type is {FORMER_BUILD_TYPE}, this version reads {BUILD_TYPE} alone. "
                "No release was published with the former one: build again with this version."
            )
        return super().parse(data)

    @property
    def asked(self) -> External:
        """What the builder was asked for."""
        return self.predicate.build_definition.external_parameters

    @property
    def builder(self) -> str:
        """Who built."""
        return self.predicate.run_details.builder.id

    @property
    def rehearsal(self) -> bool:
        """Whether it is a rehearsal."""
        return self.builder in REHEARSALS.values()

    @property
    def source(self) -> Mapping[str, str]:
        """The sha256 of every file of the packages that built it, by path."""
        return self.predicate.build_definition.internal_parameters.source

    @property
    def finished(self) -> str:
        """When the last step ended."""
        return self.predicate.run_details.metadata.finished_on

    @property
    def commit(self) -> SourceTree | None:
        """The source tree that it was built from, if the manifest names it."""
        return next((one for one in self._dependencies if isinstance(one, SourceTree)), None)

    @property
    def inputs(self) -> tuple[Input, ...]:
        """The files that were fetched."""
        return tuple(one for one in self._dependencies if isinstance(one, Input))

    @property
    def base_bytes(self) -> int:
        """The bytes of the base's weight files."""
        return sum(
            one.annotations.bytes
            for one in self.inputs
            if one.role == "base" and one.name.endswith(".safetensors")
        )

    @property
    def dependencies(self) -> dict[str, str]:
        """The sha256 of everything that the release was made from and that has one, by name."""
        return digests(one for one in self._dependencies if isinstance(one, Resource))

    @property
    def results(self) -> dict[str, str]:
        """The sha256 of every file of the release but this one, by path, and of step records."""
        return digests(self.subject) | digests(self.predicate.run_details.byproducts)

    @property
    def steps(self) -> dict[str, Step]:
        """The steps by name."""
        byproducts = self.predicate.run_details.byproducts
        return {one.name.removeprefix(STEP): one for one in byproducts if isinstance(one, Step)}

    @property
    def _dependencies(self) -> tuple[AnyDependency, ...]:
        return self.predicate.build_definition.resolved_dependencies


def recipe_of(variant: str) -> str:
    """The path of a variant's recipe in the source tree."""
    return f"build/variants/{variant}.toml"


def input_of(file: InputFile) -> Input:
    """The descriptor of a file that was fetched."""
    return Input(
        name=file.name,
        digest=Digest(sha256=file.sha256),
        uri=file.uri,
        annotations=InputSize(bytes=file.bytes),
    )


def source_files(files: Mapping[str, str]) -> tuple[SourceFile, ...]:
    """The descriptors of files of the source tree, given by path and sha256, sorted by path."""
    return tuple(
        SourceFile(name=path, digest=Digest(sha256=digest))
        for path, digest in sorted(files.items())
    )


def source_tree(commit: str, *, uncommitted_changes: bool) -> SourceTree:
    """The descriptor of the source tree."""
    return SourceTree(
        name=SOURCE,
        uri="pkg:generic/hallmark",
        digest=GitCommit(git_commit=commit),
        annotations=TreeState(uncommitted_changes=uncommitted_changes),
    )


def step(name: str, record: StepRecord) -> Step:
    """The descriptor of what a step did."""
    return Step(name=f"{STEP}{name}", digest=Digest(sha256=record.sha256), annotations=record)


def manifest(files: Mapping[str, str], definition: Definition, details: Details) -> Manifest:
    """The statement about the files of a build, given by path and sha256."""
    return Manifest(
        _type=TYPE,
        subject=subjects(files),
        predicate_type=PREDICATE_TYPE,
        predicate=Provenance(build_definition=definition, run_details=details),
    )


def read(provenance: Path) -> Manifest:
    """The manifest of a provenance folder.

    Raises:
        ManifestError: it cannot be read, or is not of the form that Hallmark writes.
    """
    return document.read(Manifest, provenance / STATEMENT)
