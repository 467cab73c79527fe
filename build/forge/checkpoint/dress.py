"""Step dress: everything beside the weights, and the whole checkpoint in one folder.

The files of the base are carried over as they are, but for those that must differ: the index, the
quantization config (in every place where engines look for it, with the same ignore list), the
chat template where the recipe replaces it, and keys that the recipe strips.
"""

import json
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forge.core import store
from forge.core.errors import DressError
from forge.recipes.recipe import Recipe
from forge.tensors import configs, tensorfile, vllm_names
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
    recipe = work.recipe
    digests = {}
    for step in ("quantize", "graft"):
        for name, digest in work.needed[step].digests.items():
            store.link(work.needed[step].files / name, out / name)
            digests[name] = digest
    placed = [
        (path.name, tensor)
        for path in sorted(out.glob("*.safetensors"))
        for tensor in tensorfile.read_header(path)
    ]
    base = work.inputs / "base"
    made = configs.made_files(recipe)
    _carry(recipe, base, out, made)
    if recipe.template is not None:
        shutil.copyfile(work.inputs / "template" / TEMPLATE, out / TEMPLATE)
    ignore = configs.ignore_list(recipe, (tensor for _, tensor in placed))
    _write_json(
        out / tensorfile.INDEX,
        tensorfile.index_json((file, tensor.spec) for file, tensor in placed),
    )
    if QUANT_CONFIG in made:
        _write_json(out / QUANT_CONFIG, configs.quant_config(recipe, ignore))
    config = _config(recipe, base / CONFIG, configs.quantization_config(recipe, ignore))
    stored = [tensor for _, tensor in placed]
    _require_understood(recipe, config["quantization_config"], work.checkpoint.plan, stored)
    _write_json(out / CONFIG, config)
    return digests


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


def _carry(recipe: Recipe, base: Path, out: Path, made: Collection[str]) -> None:
    """Copies the base's other files, with the recipe's keys stripped."""
    for path in sorted(base.iterdir()):
        if path.suffix == ".safetensors" or path.name in made:
            continue
        if path.name in recipe.strip:
            data = _read_json(path)
            for key in recipe.strip[path.name]:
                data.pop(key, None)
            _write_json(out / path.name, data)
        else:
            shutil.copyfile(path, out / path.name)
    if absent := sorted(name for name in recipe.strip if not (out / name).is_file()):
        raise DressError(
            f"{recipe.name}.toml: strip names {absent[0]}, which the base does not have."
        )


def _config(recipe: Recipe, path: Path, quantization: Mapping[str, Any]) -> dict[str, Any]:
    config = _read_json(path)
    if config.get("architectures") != [recipe.architecture]:
        raise DressError(
            f"{path}: architectures is {config.get('architectures')}, the recipe "
            f"{recipe.name} is for {recipe.architecture}."
        )
    if "quantization_config" in config:
        raise DressError(f"{path}: the base is quantized already; take the BF16 checkpoint.")
    return {**config, "quantization_config": quantization}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DressError(f"{path}: cannot be read as JSON: {error}.") from error
    if not isinstance(data, dict):
        raise DressError(f"{path}: must hold a JSON object.")
    return data


def _write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Two-space JSON in the given key order, as the hub's own files are written."""
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
