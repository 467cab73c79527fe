"""`inputs.json`: the files that fetch read, and where they come from.

It names no folder of this machine and no time, so it is the same wherever a build is made.
"""

from pydantic import Field

from forge.core.files import SourceKind
from forge.core.model import Model, RelativePath, Sha256


class InputSource(Model):
    """Where an input comes from."""

    kind: SourceKind
    uri: str
    revision: str = Field(description="A commit, or the digest of the files where there is none.")
    name: str = Field(description="What people call it.")


class InputFile(Model):
    """A file that was read."""

    role: str = Field(description="The input that it is a file of.")
    path: RelativePath
    sha256: Sha256
    bytes: int = Field(ge=0)
    uri: str

    @property
    def name(self) -> str:
        """What the manifest calls it."""
        return f"{self.role}/{self.path}"


class Inputs(Model):
    """Every input by its role, and every file of them."""

    sources: dict[str, InputSource] = Field(description="By role.")
    files: tuple[InputFile, ...]
