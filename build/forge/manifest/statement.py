"""in-toto Statements v1 (https://in-toto.io/Statement/v1): what is said of which files."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Annotated, Final, Generic, Literal, Protocol, TypeVar

from pydantic import AfterValidator, ConfigDict, Field
from pydantic.alias_generators import to_camel

from forge.core.model import Model, RelativePath, Sha256

TYPE: Final = "https://in-toto.io/Statement/v1"
# The media type of a statement inside an envelope.
MEDIA_TYPE = "application/vnd.in-toto+json"


class InToto(Model):
    """A part of a statement whose keys in-toto or SLSA has named; they are in camel case."""

    model_config = ConfigDict(
        alias_generator=to_camel, validate_by_name=True, validate_by_alias=True
    )


class Digest(Model):
    """The digest of a file; no other algorithm counts."""

    sha256: Sha256


class Resource(InToto):
    """A resource descriptor: a file by its path and digest."""

    name: RelativePath
    digest: Digest


class Named(Protocol):
    """What has a name."""

    @property
    def name(self) -> str:
        """The name."""


Item = TypeVar("Item", bound=Named)


def unique(resources: tuple[Item, ...]) -> tuple[Item, ...]:
    """Resources of which no two have one name.

    Raises:
        ValueError: two have.
    """
    counts = Counter(resource.name for resource in resources)
    if doubled := next((name for name, count in counts.items() if count > 1), None):
        raise ValueError(f"{doubled!r} stands twice")
    return resources


Subjects = Annotated[tuple[Resource, ...], Field(min_length=1), AfterValidator(unique)]
Predicate = TypeVar("Predicate", bound=Model)


class Statement(InToto, Generic[Predicate]):
    """A statement: its subjects are files of the release, and its predicate is about them."""

    type_: Literal["https://in-toto.io/Statement/v1"] = Field(alias="_type")
    subject: Subjects
    predicate_type: str
    predicate: Predicate


def resource(name: str, sha256: str) -> Resource:
    """The descriptor of a file."""
    return Resource(name=name, digest=Digest(sha256=sha256))


def subjects(files: Mapping[str, str]) -> tuple[Resource, ...]:
    """The descriptors of files, given by path and sha256, sorted by path."""
    return tuple(resource(name, digest) for name, digest in sorted(files.items()))


def digests(resources: Iterable[Resource]) -> dict[str, str]:
    """The sha256 of resources by name."""
    return {one.name: one.digest.sha256 for one in resources}
