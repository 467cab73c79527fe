"""The recipe that a manifest names: read from its commit, or this tree, and held to its digest."""

from hashlib import sha256
from pathlib import Path

from forge.core import checkout
from forge.core.errors import ReleaseError, SourceError
from forge.manifest.provenance import Manifest
from forge.recipes import recipe
from forge.recipes.recipe import Recipe


def read(manifest: Manifest) -> Recipe:
    """The recipe by the digest that the manifest states.

    Raises:
        ReleaseError: neither the commit nor this tree has a file of that digest.
        RecipeError: it is no recipe that this version reads.
    """
    path = manifest.asked.recipe
    stated = manifest.dependencies.get(path)
    for data in (_at(manifest, path), _here(path)):
        if data is not None and sha256(data).hexdigest() == stated:
            return recipe.parse(data.decode("utf-8"), Path(path))
    raise ReleaseError(
        f"{path}: neither the commit that the manifest names nor this tree has it with sha256 "
        f"{stated or 'nothing'}, so the thresholds of the report are not known."
    )


def _at(manifest: Manifest, path: str) -> bytes | None:
    tree = manifest.commit
    if tree is None or tree.annotations.uncommitted_changes:
        return None
    try:
        return checkout.git("cat-file", "blob", f"{tree.digest.git_commit}:{path}")
    except SourceError:
        return None


def _here(path: str) -> bytes | None:
    file = checkout.ROOT / path
    return file.read_bytes() if file.is_file() else None
