"""A checkpoint by its digests: those that a release lists, or those of the stored bytes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from assay.rebuild.difference import Entry
from assay.release import sums
from forge.core.errors import ManifestError
from forge.recipes.sources import RelativePath, Sha256
from forge.release import attest
from forge.tensors import tensorfile


class Line(BaseModel):
    """A line of `tensors.jsonl`."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    sha256: Sha256
    file: RelativePath


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The sha256 of every file by its path, and of every tensor."""

    files: Mapping[str, str]
    tensors: Sequence[Entry[str]]


def of_release(provenance: Path) -> Listing:
    """What `SHA256SUMS` and `tensors.jsonl` say.

    Raises:
        ManifestError: one of them is malformed.
    """
    text = sums.text(provenance / attest.TENSORS)
    return Listing(
        files=sums.read(provenance / attest.SUMS), tensors=_tensors(text, attest.TENSORS)
    )


def of_checkpoint(folder: Path, digests: Mapping[str, str]) -> Listing:
    """What they would say of a checkpoint whose files have these digests; reads every tensor."""
    text = attest.tensor_lines(tensorfile.read_checkpoint(folder))
    return Listing(files=digests, tensors=_tensors(text, str(folder)))


def _tensors(text: str, where: str) -> list[Entry[str]]:
    try:
        lines = [Line.model_validate_json(line) for line in text.splitlines()]
    except ValidationError as error:
        raise ManifestError(f"{where}: a line is malformed: {error}. Fetch it again.") from error
    return [
        Entry(name=one.name, dtype=one.dtype, shape=one.shape, file=one.file, content=one.sha256)
        for one in lines
    ]
