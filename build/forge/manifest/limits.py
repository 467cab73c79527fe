"""Limits on what is read of a release into memory, and the check of a folder against them."""

from collections.abc import Mapping

from forge.core.errors import ReleaseError
from forge.core.foreign import Folder
from forge.core.portable import quoted
from forge.manifest.names import ERRORS, PROVENANCE, STATEMENT, TENSORS

MIB = 1 << 20
# A statement of the largest checkpoints has less than one MiB, their tensors.jsonl some 30.
MOST = 16 * MIB
MOST_BUNDLE = 24 * MIB  # a statement in base64
MOST_LISTED = 256 * MIB  # the tensors of a result, of its base or its donor, and their errors
MOST_RECORD = 64 * MIB  # of the calibration, a number a linear layer
MOST_PROVENANCE = 512 * MIB  # all of it


def most_of(name: str) -> int:
    """The most bytes of a file in the provenance that are read."""
    name = name.rpartition("/")[2]
    if name.endswith((TENSORS, ERRORS)):
        return MOST_LISTED
    if name.endswith((".sigstore.json", ".sig")):
        return MOST_BUNDLE
    return MOST_RECORD if name.endswith(".safetensors") else MOST


def require_bounded(folder: Folder) -> None:
    """Refuses a release, or its provenance alone, of which too much would be read into memory.

    Raises:
        ReleaseError: naming the file that is too large.
    """
    total = 0
    for name, size in _provenance(folder).items():
        total += size
        if size > most_of(name):
            raise ReleaseError(
                f"{quoted(name)}: has {size} bytes, too many to be read: at most {most_of(name)}."
            )
    if total > MOST_PROVENANCE:
        raise ReleaseError(
            f"{PROVENANCE}: its files have {total} bytes, too many to be read: at most "
            f"{MOST_PROVENANCE}."
        )


def _provenance(folder: Folder) -> Mapping[str, int]:
    alone = STATEMENT in folder.files
    return {
        name: file.size
        for name, file in folder.files.items()
        if alone or name.partition("/")[0] == PROVENANCE
    }
