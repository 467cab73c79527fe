"""A checkpoint by its digests: those that a release lists, or those of the stored bytes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from assay.rebuild.difference import Entry
from assay.release import sums
from forge.manifest import document
from forge.manifest.names import SUMS, TENSORS
from forge.manifest.tensor_list import TensorLine
from forge.release import attest
from forge.tensors import tensorfile


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
    text = sums.text(provenance / TENSORS)
    return Listing(files=sums.read(provenance / SUMS), tensors=_tensors(text, TENSORS))


def of_checkpoint(folder: Path, digests: Mapping[str, str]) -> Listing:
    """What they would say of a checkpoint whose files have these digests; reads every tensor."""
    text = attest.tensor_lines(tensorfile.read_checkpoint(folder))
    return Listing(files=digests, tensors=_tensors(text, str(folder)))


def _tensors(text: str, where: str) -> list[Entry[str]]:
    lines = (
        document.parse(TensorLine, line.encode(), f"{where}, line {number}")
        for number, line in enumerate(text.splitlines(), start=1)
    )
    return [
        Entry(name=one.name, dtype=one.dtype, shape=one.shape, file=one.file, content=one.sha256)
        for one in lines
    ]
