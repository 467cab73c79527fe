"""The base of every pydantic model, and the strings that many of them hold."""

import unicodedata
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    ValidationInfo,
)

from forge.core import canonical
from forge.core.portable import LONGEST_PART, LONGEST_PATH, shown

T = TypeVar("T")

# How far a build is verified, from nothing to a real server.
Level = Literal["none", "structure", "all"]

Commit = Annotated[
    str, StringConstraints(pattern=r"^[0-9a-f]{40}$"), Field(description="A git commit.")
]
Sha256 = Annotated[
    str, StringConstraints(pattern=r"^[0-9a-f]{64}$"), Field(description="A SHA-256 in hex.")
]
# As `datetime.isoformat(timespec="seconds")` spells it.
Timestamp = Annotated[
    str,
    StringConstraints(pattern=r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\+00:00$"),
    Field(description="A time in UTC, to the second."),
]


def _relative(path: str) -> str:
    parts = path.split("/")
    if not path or path.startswith("/") or "\\" in path or ".." in parts:
        raise ValueError("must be a relative POSIX path that stays inside its folder")
    # The system refuses such paths where they are looked up, each with an error of another kind.
    if len(path) > LONGEST_PATH or any(len(part) > LONGEST_PART for part in parts):
        raise ValueError(f"must have at most {LONGEST_PATH} characters, {LONGEST_PART} in a part")
    if any(unicodedata.category(character) in {"Cc", "Cs"} for character in path):
        raise ValueError("must be a path without control characters")
    return path


RelativePath = Annotated[
    str,
    AfterValidator(_relative),
    Field(description="A relative POSIX path that stays inside its folder."),
]


def _absent(value: object) -> bool:
    return value is None


def _not_null(value: object, info: ValidationInfo) -> object:
    if value is None and info.mode == "json":
        raise ValueError("leave the key out instead of giving it the value null")
    return value


# A key that is left out if there is nothing to say. Write the field with the default None.
NOT_NULL = "x-not-null"  # marks it in a schema, for `forge.manifest.schemas`
Maybe = Annotated[
    T | None,
    BeforeValidator(_not_null),
    Field(exclude_if=_absent, json_schema_extra={NOT_NULL: True}),
]


class Model(BaseModel):
    """Strict types, no unknown key, no mutation; JSON in one spelling."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """The model that a JSON document holds.

        Raises:
            ValueError: it is not JSON that all readers agree on.
            ValidationError: it is JSON of another form; `mistake` puts that into words.
        """
        text = canonical.dumps(canonical.loads(data))
        return cls.model_validate_json(text, by_alias=True, by_name=False)

    def as_json(self) -> dict[str, Any]:
        """The document as JSON values, under the names that stand in it."""
        return self.model_dump(by_alias=True)

    def encoded(self) -> bytes:
        """The document's bytes: canonical JSON and a newline.

        Raises:
            ValueError: it holds a NaN or an infinity.
        """
        return (canonical.dumps(self.as_json()) + "\n").encode()


def mistake(error: ValidationError) -> str:
    """The first mistake in a document: its key, what is wrong, and the value, cut if it is long."""
    first = error.errors(include_url=False)[0]
    key = shown(".".join(str(part) for part in first["loc"]))[:200] or "the whole document"
    return f"{key}: {first['msg']:.400}; the value is {first['input']!r:.200}"
