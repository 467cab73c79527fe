"""Step graft: copies the MTP head, byte for byte, into a shard of its own.

transformers never instantiates `mtp.*`, so every save drops the head. Here it is copied from the
file that holds it, as exactly the set of tensors that the recipe declares. Nothing else of that
file is read, and each tensor must have the digest that fetch took. If the recipe drops the head,
there is no shard.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forge.checkpoint.layout import HEAD, head
from forge.core.errors import GraftError
from forge.manifest.tensor_list import TensorLine
from forge.recipes.recipe import Recipe
from forge.tensors import tensor_list, tensorfile
from forge.tensors.checkpoint import Checkpoint  # by which what makes it counts in the key
from forge.tensors.tensorfile import Tensor

if TYPE_CHECKING:
    from forge.pipeline import Work


def parameters(work: "Work") -> dict[str, Any]:
    """Where the head comes from and its tensors; the bytes count through the fetch's digests."""
    return decided(work.recipe, work.checkpoint.head_source)


def decided(recipe: Recipe, source: str | None) -> dict[str, Any]:
    """What decides the head's shard beside the bytes, given where the head comes from."""
    return {"source": source, "tensors": list(recipe.mtp.tensors)}


def run(work: "Work", out: Path) -> Mapping[str, str]:
    """Writes the head's shard and the list of its tensors; returns the digests of both."""
    made: Checkpoint = work.checkpoint
    if made.head_source is None:
        return {}
    digest, lines = graft(made.head, made.head_digests, work.recipe.mtp.tensors, out / HEAD)
    return {HEAD: digest, tensor_list.FILE: tensor_list.write(out / tensor_list.FILE, lines)}


def graft(
    source: Mapping[str, Tensor],
    digests: Mapping[str, str],
    declared: tuple[str, ...],
    path: Path,
) -> tuple[str, list[TensorLine]]:
    """Copies the declared tensors, sorted by name, into one file.

    Args:
        source: the tensors of the checkpoint that has the head, by name.
        digests: the sha256 that each of them had on arrival, by name.
        declared: the names of the head's tensors.
        path: the file to write.

    Returns:
        The file's sha256, and its tensors.

    Raises:
        GraftError: the source's `mtp.*` tensors are not exactly the declared ones, or the bytes of
            one are not those that were fetched.
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
    header = tensorfile.header_bytes(head(tensor.spec for tensor in tensors))
    digest, lines = hashlib.sha256(header), []
    with path.open("xb") as file:
        file.write(header)
        for tensor in tensors:
            own = hashlib.sha256()
            for chunk in tensor.chunks():
                file.write(chunk)
                digest.update(chunk)
                own.update(chunk)
            lines.append(tensor_list.line(tensor.spec, own.hexdigest(), path.name))
            _require_fetched(tensor, own.hexdigest(), digests)
    return digest.hexdigest(), lines


def _require_fetched(tensor: Tensor, found: str, digests: Mapping[str, str]) -> None:
    expected = digests.get(tensor.name)
    if found != expected:
        raise GraftError(
            f"{tensor.file}: the tensor {tensor.name!r} has sha256 {found}, fetched was "
            f"{expected or 'none of that name'}; the file changed since. Nothing was built; run "
            "again."
        )
