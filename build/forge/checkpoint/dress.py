"""Step dress: writes the files beside the weights, and puts the whole checkpoint into one folder.

The files of the base are copied, except for what must differ:

- the index;
- the quantization config, wherever engines look for it, with the same ignore list;
- the count of the MTP head's layers, if a donor gives the head;
- the chat template, if the recipe replaces it;
- keys that the recipe strips.

Each file that is read must have the digest that fetch took.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forge.core import filesystem
from forge.core.errors import DressError
from forge.recipes.recipe import Recipe
from forge.tensors import configs, family, other_names, tensor_list, tensorfile, vllm_names
from forge.tensors.checkpoint import Checkpoint  # by which what makes it counts in the key
from forge.tensors.configs import CONFIG, QUANT_CONFIG, TEMPLATE
from forge.tensors.family import Config
from forge.tensors.plan import Plan
from forge.tensors.tensorfile import Spec

if TYPE_CHECKING:
    from forge.pipeline import Work

QUANTIZATION = "quantization_config"


def parameters(work: "Work") -> dict[str, Any]:
    """What is edited; the files themselves count through the needed results' digests."""
    return decided(work.recipe)


def decided(recipe: Recipe) -> dict[str, Any]:
    """What of a recipe, and of the families' files, decides the files beside the weights."""
    return {
        "architecture": recipe.architecture,
        "layout": recipe.layout.model_dump(mode="json"),
        "quantize": [rule.model_dump(mode="json") for rule in recipe.quantize],
        "fused": [rule.model_dump(mode="json") for rule in recipe.fused],
        "strip": {path: list(keys) for path, keys in recipe.strip.items()},
        "template": recipe.template is not None,
        "heads": family.heads() if recipe.mtp.donor is not None else {},
    }


def run(work: "Work", out: Path) -> Mapping[str, str]:
    """Assembles the checkpoint; the shards are linked, not copied."""
    recipe, fetched = work.recipe, work.needed["fetch"].digests
    into = _Folder(out)
    for step in ("quantize", "graft"):
        for name, digest in work.needed[step].digests.items():
            if name != tensor_list.FILE:
                into.link(work.needed[step].files / name, name, digest)
    placed = [
        (path.name, tensor.spec)
        for path in tensorfile.files_in(out)
        for tensor in tensorfile.read_header(path)
    ]
    if absent := sorted({f"base/{path}" for path in recipe.strip} - fetched.keys()):
        raise DressError(
            f"{recipe.name}.toml: strip names {absent[0].removeprefix('base/')}, which the base "
            "does not have."
        )
    for name, source in carried(recipe, fetched).items():
        into.write(name, _read(work.inputs / source, fetched.get(source)))
    made_of: Checkpoint = work.checkpoint
    originals = {
        path: _read(work.inputs / path, fetched.get(path))
        for path in configs.originals(recipe, fetched)
    }
    giver = made_of.head_source
    for name, data in made(recipe, made_of.plan, originals, placed, giver).items():
        into.write(name, data)
    return into.digests


def carried(recipe: Recipe, fetched: Iterable[str]) -> dict[str, str]:
    """The files of the result that are inputs as they are: where fetch left each, by its name."""
    others = {*configs.made_files(recipe), *configs.edited_files(recipe)}
    base = {
        path.removeprefix("base/"): path
        for path in sorted(fetched)
        if path.startswith("base/") and not path.endswith(tensorfile.SUFFIX)
    }
    template = {TEMPLATE: f"template/{TEMPLATE}"} if recipe.template is not None else {}
    return {name: path for name, path in base.items() if name not in others} | template


def made(
    recipe: Recipe,
    plan: Plan,
    originals: Mapping[str, bytes],
    placed: Sequence[tuple[str, Spec]],
    giver: str | None,
) -> dict[str, bytes]:
    """The files that differ from the base's: configs, index, and what has keys stripped.

    Where a donor gives the head, its config says how many layers the head has.

    Args:
        recipe: says what is edited.
        plan: which linears are stored in which format.
        originals: what they are made of, by where fetch leaves it.
        placed: the tensors of the result, each with its file.
        giver: where the head is taken from.

    Raises:
        DressError: a file is no JSON object, or an engine would not find with the config what is
            stored.
        BaseError: a config does not say what a donor's head is.
    """
    specs = [spec for _, spec in placed]
    ignore = configs.ignore_list(recipe, specs)
    files = edited(recipe, originals, giver)
    config = {**files[CONFIG], QUANTIZATION: configs.quantization_config(recipe, ignore)}
    _require_understood(recipe, config[QUANTIZATION], plan, specs)
    files |= {CONFIG: config, tensorfile.INDEX: tensorfile.index_json(placed)}
    if QUANT_CONFIG in configs.made_files(recipe):
        files[QUANT_CONFIG] = configs.quant_config(recipe, ignore)
    return {name: _json(data) for name, data in files.items()}


def edited(
    recipe: Recipe, originals: Mapping[str, bytes], giver: str | None
) -> dict[str, dict[str, Any]]:
    """The files of the base that the recipe edits, by name; the config as yet unquantized.

    Args:
        recipe: as for :func:`made`.
        originals: as for :func:`made`.
        giver: as for :func:`made`.

    Raises:
        DressError: a file is no JSON object.
        BaseError: as :func:`made`.
    """
    base = {name: originals[f"base/{name}"] for name in configs.edited_files(recipe)}
    files = {name: _parse(name, data) for name, data in base.items()}
    for name, keys in recipe.strip.items():
        files[name] = {key: value for key, value in files[name].items() if key not in keys}
    if giver == "donor":
        paths = [f"{role}/{CONFIG}" for role in ("base", "donor")]
        both = [Config(path=Path(one), data=_parse(one, originals[one])) for one in paths]
        files[CONFIG] = configs.with_key(files[CONFIG], *family.grafted(*both))
    return files


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
    recipe: Recipe, config: Mapping[str, Any], plan: Plan, stored: Sequence[Spec]
) -> None:
    """Refuses a config with which the recipe's readers would not find what is stored."""
    linears = configs.linears(stored, plan)
    others = other_names.mistaken(config, linears)
    mistaken = {"vLLM": vllm_names.mistaken(config, linears)}
    for reader, wrong in (mistaken | {name: others[name] for name in recipe.gates.readers}).items():
        if wrong:
            raise DressError(
                f"{recipe.name}.toml: with the ignore list {config['ignore']}, {reader} takes "
                f"{len(wrong)} layer(s) for something else than is stored, first {wrong[0]!r}. "
                "Correct layout.ignore, or leave it out to list every module by name."
            )


def _read(path: Path, expected: str | None) -> bytes:
    """The bytes of a small input, which are those that were fetched."""
    data = path.read_bytes()
    if (found := sha256(data).hexdigest()) != expected:
        raise DressError(
            f"{path}: has sha256 {found}, fetched was {expected or 'no such file'}; the file "
            "changed since. Nothing was built; run again."
        )
    return data


def _parse(path: str, data: bytes) -> dict[str, Any]:
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
