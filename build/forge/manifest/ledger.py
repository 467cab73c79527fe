"""The ledger, a file for the processes of one build: a job, and the keys of its results."""

from pydantic import Field

from forge.core.files import SourceKind
from forge.core.model import Level, Model, RelativePath, Sha256

MOST = 1 << 24  # bytes of a ledger, which has some 100 for each file of the packages


class Ledger(Model):
    """The ledger of a build."""

    variant: str
    rehearsal: bool
    base: str | None = Field(description="A local checkpoint in place of the base, if any.")
    mirror: str | None = Field(description="A folder with inputs, if any.")
    level: Level = Field(description="How far the result is verified.")
    store: str = Field(description="The folder of the store.")
    source: dict[RelativePath, Sha256] = Field(
        description="Every file of the packages that build: SHA-256 by path."
    )
    origins: dict[str, SourceKind] = Field(description="Where each input comes from, by its role.")
    results: dict[str, str] = Field(description="The keys of the results so far, by step.")
    checked: tuple[str, ...] = Field(
        description="The steps whose results were hashed since the build began."
    )
