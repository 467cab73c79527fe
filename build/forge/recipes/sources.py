"""What a recipe takes from the hub: repositories at pinned commits, and what is read of them."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from forge.core.errors import UnpinnedError
from forge.core.model import Commit, Model, RelativePath, Sha256

Repository = Annotated[str, StringConstraints(pattern=r"^[\w.-]+/[\w.-]+$")]


class Unresolved(Model):
    """A pin that is not known yet: what is known of it, to be completed from the hub."""

    unresolved: str


class Source(Model):
    """A repository on the hub at one commit."""

    repo: Repository
    revision: Commit | Unresolved
    kind: Literal["model", "dataset"] = "model"

    @property
    def uri(self) -> str:
        """The package URL of this repository at its commit (purl type `huggingface`).

        Raises:
            UnpinnedError: the commit is unresolved.
        """
        if isinstance(self.revision, Unresolved):
            raise UnpinnedError(
                f"{self.repo}: no full commit is pinned (known: {self.revision.unresolved!r}).",
                remedy="unpinned-source",
            )
        kind = "datasets/" if self.kind == "dataset" else ""
        return f"pkg:huggingface/{kind}{self.repo}@{self.revision}"


class Checkpoint(Source):
    """A model repository; `files` are the globs of what is taken from it, weights included."""

    files: tuple[RelativePath, ...] = Field(min_length=1)


class Template(Source):
    """One file of a model repository, pinned by its own digest as well."""

    file: RelativePath
    sha256: Sha256


class Dataset(Source):
    """A split of a data set, read from one parquet file of its repository."""

    kind: Literal["model", "dataset"] = "dataset"
    config: str
    split: str
    file: RelativePath
    column: str
