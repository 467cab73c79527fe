"""Checks what the files beside the tensors declare: configs, ignore lists, everything carried over.

Ignore lists are compared with what is really not quantized, and read as the engine reads them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from forge.checkpoint import dress
from forge.checkpoint.dress import QUANTIZATION
from forge.core import canonical, walking
from forge.core.results import Result
from forge.manifest.names import DOCUMENTS, PROVENANCE
from forge.manifest.stored_figures import Declared, Files, Ignore
from forge.recipes.recipe import Recipe
from forge.tensors import configs, other_names, vllm_names
from forge.tensors.checkpoint import Checkpoint
from forge.tensors.configs import CONFIG, QUANT_CONFIG, TEMPLATE
from forge.tensors.plan import Plan
from forge.tensors.tensorfile import SUFFIX, Tensor

# Nothing that an engine would execute or unpickle belongs into a release.
FORBIDDEN = {".py", ".bin", ".pt", ".pth", ".pkl", ".ckpt", ".so"}


def ignore(recipe: Recipe, plan: Plan, checkpoint: Path, stored: Mapping[str, Tensor]) -> Ignore:
    """Every ignore list is the expected one, and the engine understands it as what is stored."""
    declared = json_object(checkpoint / CONFIG, QUANTIZATION)
    lists = {CONFIG: declared.get("ignore", [])}
    if QUANT_CONFIG in configs.made_files(recipe):
        outer = json_object(checkpoint / QUANT_CONFIG, "quantization")
        lists[QUANT_CONFIG] = outer.get("exclude_modules", [])
    expected = set(configs.ignore_list(recipe, stored.values()))
    wrong = [
        f"{file}: {len(expected - {*listed})} missing, {len({*listed} - expected)} extra"
        f"{first(sorted(expected ^ {*listed}))}"
        for file, listed in lists.items()
        if sorted(listed) != sorted(expected)
    ]
    kinds = configs.linears(stored.values(), plan)
    if "ignore" in declared:
        taken = vllm_names.mistaken(declared, kinds)
        others = other_names.mistaken(declared, kinds)
    else:  # the check fails anyway
        taken, others = [], {reader: [*kinds] for reader in other_names.READERS}
    if taken:
        wrong.append(f"vLLM takes {len(taken)} layers for something else{first(taken)}")
    plain = sum(kind is None for kind in kinds.values())
    return Ignore(
        quantized=len(kinds) - plain,
        not_quantized=plain,
        entries={file: len(listed) for file, listed in lists.items()},
        wrong=tuple(wrong),
        readers=Ignore.read(others),
    )


def config(recipe: Recipe, checkpoint: Path) -> Declared:
    """The configs declare the recipe's formats and KV cache, their ignore lists aside."""
    expected = {CONFIG: configs.quantization_config(recipe, [])}
    found = {CONFIG: {**json_object(checkpoint / CONFIG, QUANTIZATION), "ignore": []}}
    if QUANT_CONFIG in configs.made_files(recipe):
        expected[QUANT_CONFIG] = configs.quant_config(recipe, [])
        outer = json_object(checkpoint / QUANT_CONFIG)
        inner = json_object(checkpoint / QUANT_CONFIG, "quantization")
        found[QUANT_CONFIG] = {**outer, "quantization": {**inner, "exclude_modules": []}}
    wrong = [
        f"{file}: {key} is {found[file].get(key)!r}, not {expected[file].get(key)!r}"
        for file in expected
        for key in sorted(expected[file].keys() | found[file].keys())
        if found[file].get(key) != expected[file].get(key)
    ]
    return Declared(files=len(expected), kv_cache=recipe.layout.kv_cache, wrong=tuple(wrong))


def files_of(checkpoint: Path) -> list[str]:
    """The files of a checkpoint by path, the provenance left out."""
    names = walking.files_below(checkpoint)
    return [name for name in names if name.partition("/")[0] != PROVENANCE]


def files(
    made_of: Checkpoint, checkpoint: Path, fetched: Result, digests: Mapping[str, str]
) -> Files:
    """The files beside the weights are the base's, edited as the recipe says and no further.

    Args:
        made_of: the checkpoint that the recipe, which says what is edited, makes of the base.
        checkpoint: the folder.
        fetched: the inputs.
        digests: the sha256 of the checkpoint's files, by path.
    """
    recipe = made_of.recipe
    stored = set(files_of(checkpoint))
    weights = {path for path in stored if path.endswith(SUFFIX)}
    carried = dress.carried(recipe, fetched.digests)
    originals = {
        path: (fetched.files / path).read_bytes()
        for path in configs.originals(recipe, fetched.digests)
    }
    edited = dress.edited(recipe, originals, made_of.head_source)
    expected = carried.keys() | edited.keys() | configs.made_files(recipe)
    stored -= set(DOCUMENTS) - expected
    wrong = [f"missing {path}" for path in sorted(expected - stored)]
    wrong += [f"extra {path}" for path in sorted(stored - expected - weights)]
    wrong += [f"code {path}" for path in sorted(stored) if Path(path).suffix in FORBIDDEN]
    for path, value in edited.items():
        # What quantizes is looked at by itself; in the base it may be null.
        found, wanted = (
            [(key, one) for key, one in each.items() if key != QUANTIZATION]
            for each in (json_object(checkpoint / path), value)
        )
        if found != wanted:
            wrong.append(f"{path} is not the base's as the recipe edits it")
    for path in sorted(carried.keys() & stored):
        if digests[path] != fetched.digests[carried[path]]:
            whose = "the recipe" if path == TEMPLATE and recipe.template else "the base"
            wrong.append(f"{path} is not {whose}'s")
    return Files(files=len(stored), compared=len(carried) + len(edited), wrong=tuple(wrong))


def json_object(path: Path, key: str | None = None) -> dict[str, Any]:
    """A JSON object of the checkpoint, or that under `key` of it; empty if it is not there.

    An absent or malformed file is no crash of the assay but a failure of the checks on it.

    Raises:
        OSError: the system does not let the file be read.
    """
    try:
        data = canonical.read(path)
        data = data if key is None else data[key]
    except (FileNotFoundError, ValueError, LookupError, TypeError):
        return {}
    return data if isinstance(data, dict) else {}


def first(names: list[str]) -> str:
    """The first of some names in brackets, or nothing."""
    return f" (first: {names[0]})" if names else ""
