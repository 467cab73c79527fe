"""Step graft: the MTP head, byte for byte, in a shard of its own.

transformers never instantiates `mtp.*`, so every save drops the head; here it is copied from the
file that holds it, as the exact set of tensors that the recipe declares. A recipe may drop it on
purpose; then there is no shard.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forge.core.errors import GraftError
from forge.tensors import tensorfile
from forge.tensors.tensorfile import Tensor

if TYPE_CHECKING:
    from forge.pipeline import Work

FILE = "model-mtp.safetensors"


def parameters(work: "Work") -> dict[str, Any]:
    """Where the head comes from and its tensors; the bytes count through the fetch's digests."""
    mtp = work.recipe.mtp
    return {"source": work.checkpoint.head_source, "tensors": list(mtp.tensors)}


def run(work: "Work", out: Path) -> Mapping[str, str]:
    """Writes the head's shard and returns its digest."""
    if work.checkpoint.head_source is None:
        return {}
    return {FILE: graft(work.checkpoint.head, work.recipe.mtp.tensors, out / FILE)}


def graft(source: Mapping[str, Tensor], declared: tuple[str, ...], path: Path) -> str:
    """Copies the declared tensors, sorted by name, into one file.

    Returns:
        The file's sha256.

    Raises:
        GraftError: the source's `mtp.*` tensors are not exactly the declared ones.
    """
    there = {name for name in source if name.startswith("mtp.")}
    if there != set(declared):
        missing, extra = sorted(set(declared) - there), sorted(there - set(declared))
        raise GraftError(
            f"the MTP head has {len(there)} tensor(s), the recipe declares {len(declared)}: "
            f"missing {missing or 'none'}, undeclared {extra or 'none'}. Correct mtp.tensors, or "
            "take the head from a donor that has it whole."
        )
    tensors = [source[name] for name in sorted(declared)]
    header = tensorfile.header_bytes([tensor.spec for tensor in tensors])
    digest = hashlib.sha256(header)
    with path.open("xb") as file:
        file.write(header)
        for tensor in tensors:
            for chunk in tensor.chunks():
                file.write(chunk)
                digest.update(chunk)
    return digest.hexdigest()
