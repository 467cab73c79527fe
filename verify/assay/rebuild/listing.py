"""A checkpoint by its digests: those that a release lists, or those taken while it was written."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from assay.rebuild.difference import Entry
from forge.core.errors import ManifestError, TensorFileError
from forge.core.results import Result
from forge.manifest import sums
from forge.manifest.names import SUMS, TENSORS
from forge.tensors import tensor_list


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
    tensors = _tensors(provenance / TENSORS)
    return Listing(files=sums.read(provenance / SUMS), tensors=tensors)


def of_rebuild(digests: Mapping[str, str], steps: Iterable[Result]) -> Listing:
    """A checkpoint by the digests that its steps took while they wrote it.

    Args:
        digests: those of its files.
        steps: the results of the steps that wrote tensors.
    """
    lists = (step.files / tensor_list.FILE for step in steps)
    # A recipe that drops the head has no shard of it.
    tensors = [one for path in lists if path.is_file() for one in _tensors(path)]
    return Listing(files=digests, tensors=tensors)


def _tensors(path: Path) -> list[Entry[str]]:
    try:
        lines = tensor_list.read(path)
    except TensorFileError as error:
        raise ManifestError(f"{error} Fetch it again.") from error
    return [
        Entry(name=one.name, dtype=one.dtype, shape=one.shape, file=one.file, content=one.sha256)
        for one in lines.values()
    ]
