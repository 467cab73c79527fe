"""Whether a checkpoint can be built from a base: all that headers and configs alone can tell.

It is checked before any work, so that no time is spent on a base that does not fit. The tensors
must be those of the architecture, the head's included, and the recipe must have a use for each.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from forge.core import canonical
from forge.core.boundary import naming
from forge.core.errors import BaseError, QuantizeError, RecipeError
from forge.core.files import LFS_POINTER
from forge.manifest.tensor_list import TensorLine
from forge.recipes.recipe import Recipe
from forge.recipes.sections import DEVICES
from forge.tensors import family, parallel, tensorfile
from forge.tensors.configs import CONFIG
from forge.tensors.family import Beside, Config, Expected, Family
from forge.tensors.plan import head_source, make_plan
from forge.tensors.tensorfile import Tensor

# What says that a checkpoint is quantized, by the place in config.json.
QUANTIZED = ("quantization_config", "compression_config")
_MARK = b"\xef\xbb\xbf"
# Bytes of a file of JSON that is looked into before all others are fetched.
SMALL = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Offer:
    """A checkpoint that a base or a head may be taken from: its folder, and what is in it.

    `config` is None where the folder has none.
    """

    folder: Path
    config: Config | None
    tensors: Mapping[str, Tensor]


def read(folder: Path) -> Offer:
    """Reads the config and the headers of a checkpoint folder.

    Raises:
        BaseError: a file is a pointer to its bytes, or the config is not JSON that all readers
            agree on.
        TensorFileError: a file of tensors or the index breaks the format.
    """
    for path in sorted(folder.iterdir()):
        if path.is_file():
            _require_no_pointer(path)
    path = folder / CONFIG
    config = read_config(path) if path.is_file() else None
    return Offer(folder=folder, config=config, tensors=tensorfile.read_checkpoint(folder))


def read_config(path: Path) -> Config:
    """Reads a config.json.

    Raises:
        BaseError: it begins with a byte order mark, is no JSON object, has a key twice, or has a
            number that is NaN or infinite, which JSON does not know.
    """
    with naming(path):
        return parse_config(path.read_bytes(), path)


def parse_config(data: bytes, path: Path) -> Config:
    """As :func:`read_config`, of the bytes of the file at that path."""
    return Config(path=path, data=parse_object(data, path))


def parse_object(data: bytes, path: Path) -> dict[str, Any]:
    """The JSON object in the bytes of any file of a checkpoint, with the path that errors name.

    Raises:
        BaseError: as :func:`read_config`.
    """
    if data.startswith(_MARK):
        raise BaseError(
            f"{path}: begins with a byte order mark, at which readers of JSON stop. Save it as "
            "UTF-8 without one."
        )
    try:
        found = canonical.loads(data)
    except ValueError as error:
        raise BaseError(f"{path}: is no JSON that all readers agree on: {error}.") from error
    if not isinstance(found, dict):
        raise BaseError(f"{path}: must hold a JSON object.")
    return found


def admit(recipe: Recipe, base: Offer, donor: Offer | None) -> Config:
    """Refuses a base, and the donor of its head, of which the recipe's checkpoint cannot be made.

    Args:
        recipe: says what is made of them.
        base: the base.
        donor: what the head is taken from if not the base; None where the recipe names none.

    Returns:
        The config of the base.

    Raises:
        BaseError: the first fault that is found: its file, key or tensor, what is there and what
            would be right.
        RecipeError: the recipe does not cover the tensors (see :func:`make_plan`).
    """
    known, config = admit_body(recipe, base)
    source = head_source(recipe, base.tensors)
    if source is not None:
        giver = base if source == "base" or donor is None else donor
        _admit_head(recipe, known, config, giver)
    _require_packable(recipe, base)
    return config


def admit_body(recipe: Recipe, base: Offer) -> tuple[Family, Config]:
    """As :func:`admit`, of the base's own part alone, and not whether its formats hold it.

    Returns:
        The family of the base, and its config.
    """
    config = base.config
    if config is None:
        raise BaseError(f"{base.folder}: has no {CONFIG}. Take a base that has one.")
    known = _family(recipe, config)
    for key in (*QUANTIZED, *(f"text_config.{key}" for key in QUANTIZED)):
        if config.get(key) is not None:
            raise BaseError(
                f"{config.path}: {key} says that the base is quantized already. Take the "
                "checkpoint in BF16."
            )
    expected = known.expected(config)
    body = {name: one for name, one in expected.items() if not name.startswith(known.head)}
    compare(base, body, _part(base, known, head=False), config)
    return known, config


def require_devices(recipe: Recipe, base: Offer) -> None:
    """Refuses a recipe that serves on more devices than a checkpoint of this base's sizes allows.

    Args:
        recipe: its flags of serving name the devices.
        base: one that :func:`admit` takes.

    Raises:
        RecipeError: naming the flag, and the first linear that cannot be divided.
    """
    if base.config is None:
        return
    known, plan = family.find(base.config), make_plan(recipe, base.tensors)
    for devices in sorted(recipe.serve.devices):
        if faults := parallel.faults(known, base.config, plan, devices):
            raise RecipeError(
                f"{recipe.name}.toml: serves with {DEVICES} = {devices}, which the base does not "
                f"allow: {faults[0]}. Serve on fewer devices."
            )


def require_tied(config: Config, digests: Mapping[str, str]) -> None:
    """Refuses an output head of its own where an engine may take the embeddings for it.

    Args:
        config: of the base.
        digests: the sha256 of the base's tensors, by name.

    Raises:
        BaseError: the two differ.
    """
    known = family.find(config)
    own, shared = (digests.get(name) for name in (known.tied.output, known.tied.embeddings))
    if known.is_tied(config) and own is not None and own != shared:
        keys = " or ".join(known.tied.keys)
        raise BaseError(
            f"{config.path}: {keys} is true, so engines take {known.tied.embeddings!r} for the "
            f"output head, but {known.tied.output!r} is there and differs from it. Set the key to "
            "false, or remove the tensor."
        )


def require_head(recipe: Recipe, lines: Mapping[str, TensorLine], where: Path) -> None:
    """Refuses an MTP head whose matrices are all zero: every draft of it would be the same.

    Args:
        recipe: names the tensors of the head.
        lines: the tensors of the checkpoint that gives it, with their digests.
        where: that checkpoint.

    Raises:
        BaseError: all of its matrices are zero.
    """
    head = [lines[name] for name in recipe.mtp.tensors if name in lines]
    # The smallest first, as one that is not zero ends it.
    matrices = sorted((one for one in head if len(one.shape) > 1), key=lambda one: one.nbytes)
    if matrices and all(one.sha256 == _zeros(one.nbytes) for one in matrices):
        raise BaseError(
            f"{where}: all {len(matrices)} matrices of the MTP head are zero, such as "
            f"{matrices[0].name!r}. Take the head from a donor, or a checkpoint that has it."
        )


def _zeros(count: int) -> str:
    """The sha256 of so many zero bytes."""
    digest, block = sha256(), bytes(min(count, 1 << 20))
    for start in range(0, count, 1 << 20):
        digest.update(block[: count - start])
    return digest.hexdigest()


def compare(
    offer: Offer, expected: Mapping[str, Expected], found: Mapping[str, Tensor], config: Config
) -> None:
    """Refuses tensors that are not those which a config asks for, both ways.

    Raises:
        BaseError: naming the first, and how many others are wrong.
    """
    faults = [
        *(_fault(tensor, expected.get(name), config) for name, tensor in found.items()),
        *(
            f"{offer.folder}: has no tensor {name!r} ({one.what}); {config.path} asks for one of "
            f"shape {list(one.shape)}"
            for name, one in expected.items()
            if name not in found and not one.optional
        ),
    ]
    if wrong := [fault for fault in faults if fault is not None]:
        others = f" {len(wrong) - 1} other tensor(s) are wrong as well." if len(wrong) > 1 else ""
        raise BaseError(f"{wrong[0]}.{others} Take a checkpoint whose config and tensors agree.")


def _fault(tensor: Tensor, wanted: Expected | None, config: Config) -> str | None:
    where = f"{tensor.file}: the tensor {tensor.name!r}"
    if wanted is None:
        return f"{where} is not part of the architecture, as {config.path} describes it"
    shape, right = list(tensor.shape), list(wanted.shape)
    if 0 in tensor.shape:
        return (
            f"{where} ({wanted.what}) is empty, of shape {shape}, expected {right}; a sharded "
            "optimizer leaves such tensors when a model is saved without gathering it"
        )
    if shape != right:
        return f"{where} ({wanted.what}) has shape {shape}, {config.path} asks for {right}"
    if tensor.dtype not in wanted.dtypes:
        return f"{where} ({wanted.what}) is {tensor.dtype}, expected {' or '.join(wanted.dtypes)}"
    return None


def _family(recipe: Recipe, config: Config) -> Family:
    stated = config.get("architectures")
    if stated != [recipe.architecture]:
        raise BaseError(
            f"{config.path}: architectures is {json.dumps(stated)}, but {recipe.name}.toml is for "
            f"{recipe.architecture}. Take a base of that architecture, or another variant."
        )
    known = family.find(config)
    if recipe.architecture not in known.architectures:
        raise BaseError(
            f"{config.path}: model_type is {json.dumps(known.model_type)}, which does not "
            f"belong to {recipe.architecture}. Take the config that belongs to the weights."
        )
    return known


def _admit_head(recipe: Recipe, known: Family, config: Config, giver: Offer) -> None:
    """Checks that the MTP head has the base's sizes, and as many layers as its config says."""
    own = giver.config
    if own is None:
        raise BaseError(
            f"{giver.folder}: has no {CONFIG}, which says how many layers its MTP head has. Take "
            "a checkpoint that has one."
        )
    whose = family.find(own)
    layers = whose.head_layers(own)
    if not layers:
        raise BaseError(
            f"{own.path}: {whose.optional[family.HEAD_LAYERS]} is {json.dumps(_count(whose, own))},"
            f" but {recipe.name}.toml keeps an MTP head, which engines then would not load. Take "
            "the config that belongs to the head."
        )
    wanted = known.expected(config, layers)
    head = {name: one for name, one in wanted.items() if name.startswith(known.head)}
    if differ := sorted(head.keys() ^ set(recipe.mtp.tensors)):
        which = "lacks" if differ[0] in head else "declares"
        raise RecipeError(
            f"{recipe.name}.toml: mtp.tensors {which} {differ[0]!r}; a head of {layers} layer(s), "
            f"as {own.path} describes it, has {len(head)} tensors ({len(differ)} differ). Correct "
            "the list."
        )
    compare(giver, head, _part(giver, known, head=True), config)


def _count(known: Family, config: Config) -> Any:
    return config.get(known.optional[family.HEAD_LAYERS])


def _part(offer: Offer, known: Family, *, head: bool) -> dict[str, Tensor]:
    """The tensors of the head, or the others."""
    return {
        name: tensor
        for name, tensor in offer.tensors.items()
        if name.startswith(known.head) == head
    }


def _require_packable(recipe: Recipe, base: Offer) -> None:
    """Refuses what the recipe does not cover, and what a format cannot hold."""
    plan = make_plan(recipe, base.tensors)
    for linear in plan.linears.values():
        tensor = base.tensors[linear.place.tensor]
        try:
            linear.format.check(linear.module, tensor.dtype, linear.place.shape)
        except QuantizeError as error:
            raise BaseError(f"{tensor.file}: {error}") from error


def _require_no_pointer(path: Path) -> None:
    with naming(path), path.open("rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER:
            raise BaseError(
                f"{path}: is a pointer of Git LFS, not the file. Fetch the file with `git lfs "
                "pull`, or from the hub."
            )


def lacking(recipe: Recipe, names: Collection[str]) -> Beside | None:
    """The first part beside the weights that files, with those that a donor lends, do not make."""
    known = family.of_architecture(recipe.architecture)
    there = {*names, *recipe.lent}
    for part in known.beside if known else ():
        if part.needs and not any(there.issuperset(one) for one in part.needs):
            return part
    return None


def require_beside(recipe: Recipe, folder: Path, names: Collection[str]) -> None:
    """Refuses a base that lacks what its parts beside the weights are made of, or has no JSON.

    Large files of JSON are looked into when they are fetched.

    Args:
        recipe: says what the base is, and which files a donor lends it.
        folder: the base.
        names: the files of it that are taken.

    Raises:
        BaseError: naming the part and the files that it may be made of, or the file of JSON that
            is none that all readers agree on.
    """
    if (part := lacking(recipe, names)) is not None:
        ways = ", or ".join(" and ".join(one) for one in part.needs)
        raise BaseError(
            f"{folder}: has no {ways}, of which the {part.what} is made. Take a checkpoint that "
            "has it."
        )
    for name in sorted(names):
        path = folder / name
        if name.endswith(".json") and name != tensorfile.INDEX and path.stat().st_size <= SMALL:
            parse_object(path.read_bytes(), path)


def require_stripped(recipe: Recipe, folder: Path, names: Collection[str]) -> None:
    """Refuses a recipe that strips keys of a file that the base does not have.

    Raises:
        BaseError: naming the file.
    """
    if absent := sorted(recipe.strip.keys() - set(names)):
        raise BaseError(
            f"{folder}: has no {absent[0]}, whose keys {recipe.name}.toml strips. Take the file "
            "from the repository of the base, or correct the recipe."
        )
