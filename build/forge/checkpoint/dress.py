"""Step dress: everything beside the weights, and the whole checkpoint in one folder.

The files of the base are carried over as they are, but for those that must differ: the index, the
quantization config (in every place where engines look for it, with the same ignore list), the
chat template where the recipe replaces it, and keys that the recipe strips. Each file that is read
must have the digest that fetch took.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forge.core import filesystem
from forge.core.errors import DressError
from forge.recipes.recipe import Recipe
from forge.tensors import configs, tensor_list, tensorfile, vllm_names
from forge.tensors.checkpoint import Checkpoint  # by which what makes it counts in the key
from forge.tensors.configs import CONFIG, QUANT_CONFIG, TEMPLATE
from forge.tensors.plan import Plan
from forge.tensors.tensorfile import Tensor

if TYPE_CHECKING:
    from forge.pipeline import Work


def parameters(work: "Work") -> dict[str, Any]:
    """What is edited; the files themselves count through the needed results' digests."""
    recipe = work.recipe
    return {
        "architecture": recipe.architecture,
        "layout": recipe.layout.model_dump(mode="json"),
        "quantize": [rule.model_dump(mode="json") for rule in recipe.quantize],
        "fused": [rule.model_dump(mode="json") for rule in recipe.fused],
        "strip": {path: list(keys) for path, keys in recipe.strip.items()},
        "template": recipe.template is not None,
    }


def run(work: "Work", out: Path) -> Mapping[str, str]:
    """Assembles the checkpoint; the shards are linked, not copied."""
    recipe, fetched = work.recipe, work.needed["fetch"].digests
    made = configs.made_files(recipe)
    into = _Folder(out)
    for step in ("quantize", "graft"):
        for name, digest in work.needed[step].digests.items():
            if name != tensor_list.FILE:
                into.link(work.needed[step].files / name, name, digest)
    placed = [
        (path.name, tensor)
        for path in tensorfile.files_in(out)
        for tensor in tensorfile.read_header(path)
    ]
    _carry(recipe, work.inputs, fetched, into, made)
    if recipe.template is not None:
        path = f"template/{TEMPLATE}"
        into.write(TEMPLATE, _read(work.inputs / path, fetched.get(path)))
    ignore = configs.ignore_list(recipe, (tensor for _, tensor in placed))
    index = tensorfile.index_json((file, tensor.spec) for file, tensor in placed)
    into.write(tensorfile.INDEX, _json(index))
    if QUANT_CONFIG in made:
        into.write(QUANT_CONFIG, _json(configs.quant_config(recipe, ignore)))
    base = work.inputs / "base" / CONFIG
    config = _parse(base, _read(base, fetched.get(f"base/{CONFIG}")))
    config["quantization_config"] = configs.quantization_config(recipe, ignore)
    stored = [tensor for _, tensor in placed]
    made_of: Checkpoint = work.checkpoint
    _require_understood(recipe, config["quantization_config"], made_of.plan, stored)
    into.write(CONFIG, _json(config))
    return into.digests


class _Folder:
    """The checkpoint's folder; keeps the digest of each file as it is written."""

    def __init__(self, path: Path) -> None:
        self.digests: dict[str, str] = {}
        self._path = path

    def link(self, source: Path, name: str, digest: str) -> None:
        """Puts a file there whose digest is known, without reading it."""
        filesystem.link(source, self._path / name)
        self.digests[name] = digest

    def write(self, name: str, data: bytes) -> None:
        """Writes a small file, in place of one of that name."""
        path = self._path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        self.digests[name] = sha256(data).hexdigest()


def _require_understood(
    recipe: Recipe, config: Mapping[str, Any], plan: Plan, stored: Sequence[Tensor]
) -> None:
    """Refuses a config with which the engine would not find what is stored."""
    if wrong := vllm_names.mistaken(config, configs.linears(stored, plan)):
        raise DressError(
            f"{recipe.name}.toml: with the ignore list {config['ignore']}, vLLM takes "
            f"{len(wrong)} layer(s) for something else than is stored, first {wrong[0]!r}. "
            "Correct layout.ignore, or leave it out to list every module by name."
        )


def _carry(
    recipe: Recipe,
    inputs: Path,
    fetched: Mapping[str, str],
    into: _Folder,
    made: Collection[str],
) -> None:
    """Copies the base's other files, with the recipe's keys stripped."""
    base = inputs / "base"
    for path in sorted(base.iterdir()):
        if path.suffix == ".safetensors" or path.name in made:
            continue
        data = _read(path, fetched.get(f"base/{path.name}"))
        if path.name in recipe.strip:
            stripped = _parse(path, data)
            for key in recipe.strip[path.name]:
                stripped.pop(key, None)
            data = _json(stripped)
        into.write(path.name, data)
    if absent := sorted(recipe.strip.keys() - into.digests.keys()):
        raise DressError(
            f"{recipe.name}.toml: strip names {absent[0]}, which the base does not have."
        )


def _read(path: Path, expected: str | None) -> bytes:
    """The bytes of a small input, which are those that were fetched."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DressError(f"{path}: cannot be read: {error.strerror}.") from error
    if (found := sha256(data).hexdigest()) != expected:
        raise DressError(
            f"{path}: has sha256 {found}, fetched was {expected or 'no such file'}; the file "
            "changed since. Nothing was built; run again."
        )
    return data


def _parse(path: Path, data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except ValueError as error:
        raise DressError(f"{path}: cannot be read as JSON: {error}.") from error
    if not isinstance(value, dict):
        raise DressError(f"{path}: must hold a JSON object.")
    return value


def _json(data: Mapping[str, Any]) -> bytes:
    """Two-space JSON in the given key order, as the hub's own files are written."""
    return (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode()
