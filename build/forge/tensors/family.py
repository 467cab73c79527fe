"""What an architecture stores: the tensors that follow from a config, by its family's file.

`build/families/<model_type>.toml` names every tensor of an architecture and gives its shape as
expressions over the sizes in config.json, the MTP head included, which transformers has no module
for. docs/families.md says what its keys mean.
"""

import ast
import json
import operator
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from forge.core import canonical
from forge.core.errors import BaseError
from forge.core.model import Model

FOLDER = Path(__file__).resolve().parents[2] / "families"
LAYER = "{layer}"
# What `each` may name besides a kind of layers: all of them.
EVERY_LAYER = "layer"
HEAD_LAYERS = "head_layers"
_OPERATORS: Mapping[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Config:
    """A config.json, and where it lies."""

    path: Path
    data: Mapping[str, Any]

    def get(self, key: str) -> Any:
        """The value under a dotted key, or None."""
        value: Any = self.data
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        return value

    def size(self, key: str) -> int:
        """The count under a dotted key.

        Raises:
            BaseError: there is none.
        """
        value = self.get(key)
        if type(value) is not int or value < 0:
            raise BaseError(
                f"{self.path}: {key} is {json.dumps(value)}, but must be a count; the sizes of "
                "the tensors follow from it. Take the config that belongs to the weights."
            )
        return value


@dataclass(frozen=True, kw_only=True)
class Expected:
    """A tensor of the architecture; one that is `optional` may be absent."""

    what: str
    shape: tuple[int, ...]
    dtypes: tuple[str, ...]
    optional: bool = False


class Group(Model):
    """Tensors of one place.

    Attributes:
        what: what they are, for people.
        prefix: what their names begin with; `{layer}` stands for the number of a layer.
        each: which layers have them: a kind of layers, `layer` for all, or a size that counts
            them; None for tensors that there are once.
        when: an expression; the tensors are there unless it is 0.
        may_lack: an expression; the tensors may be absent unless it is 0.
        shapes: an expression for each dimension, by the rest of the name.
    """

    what: str
    prefix: str
    each: str | None = None
    when: str = "1"
    may_lack: str = "0"
    shapes: dict[str, tuple[str, ...]] = Field(min_length=1)


class Split(Model):
    """How engines divide linears among devices (tensor parallelism).

    Attributes:
        linears: the ends of their names; `*` stands for one part of a dotted name.
        along: what is divided: the rows (outputs) of a weight or its columns (inputs).
        units: expressions; each is a count that the devices must divide.
        copied: where there are more devices than units, several have the same.
    """

    linears: tuple[str, ...] = Field(min_length=1)
    along: Literal["rows", "columns"]
    units: tuple[str, ...] = Field(min_length=1)
    copied: bool = False


class Beside(Model):
    """Files that a part of the model beside its weights is made of.

    Attributes:
        what: the part, for people.
        files: their names, as globs; there may be none of them.
        needs: alternatives, each the names of files that together are enough; if there are any,
            one must be there whole.
        templates: whether a recipe that replaces the chat template replaces all of them.
    """

    what: str
    files: tuple[str, ...] = Field(min_length=1)
    needs: tuple[tuple[str, ...], ...] = ()
    templates: bool = False


class Tied(Model):
    """The tensor that engines take for another where a key of the config is true."""

    keys: tuple[str, ...] = Field(min_length=1)
    embeddings: str
    output: str


class Family(Model):
    """An architecture, by its `model_type`.

    Attributes:
        layers: the key that counts the layers.
        layer_types: the key that lists the kind of each.
        kinds: the kinds of layers there are.
        head: what the names of the MTP head's tensors begin with.
        tied: the embeddings that may serve as the output head.
        sizes: keys of the config, by the names that expressions use.
        optional: as `sizes`, for keys that may be absent, which count as 0.
        beside: the files beside the weights that the model's parts are made of.
        splits: how linears are divided among devices; those not named lie whole on each.
    """

    model_type: str
    architectures: tuple[str, ...] = Field(min_length=1)
    dtypes: tuple[str, ...] = Field(min_length=1)
    layers: str
    layer_types: str
    kinds: tuple[str, ...]
    head: str
    tied: Tied
    sizes: dict[str, str]
    optional: dict[str, str]
    tensors: tuple[Group, ...] = Field(min_length=1)
    beside: tuple[Beside, ...] = Field(min_length=1)
    splits: tuple[Split, ...] = Field(min_length=1)

    def head_layers(self, config: Config) -> int:
        """How many layers the MTP head has by a config; 0 where it says nothing."""
        return _optional(config, self.optional[HEAD_LAYERS])

    def expected(self, config: Config, head_layers: int | None = None) -> dict[str, Expected]:
        """Every tensor of the architecture by name.

        Args:
            config: gives the sizes.
            head_layers: the layers of the MTP head, if not as many as `config` says.

        Raises:
            BaseError: a key of the config is no count, or lists other layers than there are.
        """
        values = self.values(config)
        if head_layers is not None:
            values[HEAD_LAYERS] = head_layers
        kinds = self._kinds(config)
        return {
            group.prefix.replace(LAYER, str(layer)) + name: Expected(
                what=group.what,
                shape=tuple(evaluate(one, values) for one in shape),
                dtypes=self.dtypes,
                optional=evaluate(group.may_lack, values) != 0,
            )
            for group in self.tensors
            if evaluate(group.when, values)
            for layer in _layers(group, kinds, values)
            for name, shape in group.shapes.items()
        }

    def is_tied(self, config: Config) -> bool:
        """Whether an engine may take the embeddings for the output head."""
        return any(config.get(key) is True for key in self.tied.keys)

    def values(self, config: Config) -> dict[str, int]:
        """What the short names stand for.

        Raises:
            BaseError: a key of the config is no count.
        """
        return {
            **{name: config.size(key) for name, key in self.sizes.items()},
            **{name: _optional(config, key) for name, key in self.optional.items()},
        }

    def _kinds(self, config: Config) -> list[str]:
        count, kinds = config.size(self.layers), config.get(self.layer_types)
        if not isinstance(kinds, list) or not set(kinds) <= set(self.kinds):
            raise BaseError(
                f"{config.path}: {self.layer_types} must list the kind of each layer, one of "
                f"{', '.join(self.kinds)}. Take the config that belongs to the weights."
            )
        if len(kinds) != count:
            raise BaseError(
                f"{config.path}: {self.layer_types} lists {len(kinds)} layer(s), {self.layers} "
                f"says {count}. Take the config that belongs to the weights."
            )
        return kinds


def find(config: Config) -> Family:
    """The family of a config.

    Raises:
        BaseError: the config names none, or one that has no file.
    """
    name = config.get("model_type")
    known = names()
    if name not in known:
        raise BaseError(
            f"{config.path}: model_type is {json.dumps(name)}; known are {', '.join(known)}. "
            "Take a base of one of these architectures."
        )
    return load(name)


def of_architecture(name: str) -> Family | None:
    """The family that has an architecture."""
    return next((one for one in map(load, names()) if name in one.architectures), None)


def grafted(base: Config, giver: Config) -> tuple[str, int]:
    """How many layers a grafted head has, by the config of the checkpoint that gives it.

    Args:
        base: of the checkpoint that gets the head.
        giver: of the one that gives it.

    Returns:
        The key under which the base's config says it, and the count.

    Raises:
        BaseError: a config is of no family that is known here, or says no count.
    """
    return find(base).optional[HEAD_LAYERS], find(giver).head_layers(giver)


def heads() -> dict[str, str]:
    """The key of a config that counts the layers of its MTP head, by family."""
    return {name: load(name).optional[HEAD_LAYERS] for name in names()}


def digest(architecture: str) -> str:
    """One digest over all that the files say of an architecture's families."""
    known = [one for one in map(load, names()) if architecture in one.architectures]
    return canonical.sha256_text(canonical.dumps([one.as_json() for one in known]))


def names() -> list[str]:
    """The families there are, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


@cache
def load(name: str) -> Family:
    """Reads the file of a family."""
    data = tomllib.loads((FOLDER / f"{name}.toml").read_text(encoding="utf-8"))
    # JSON mode: TOML arrays are lists, which strict mode takes as tuples only from JSON.
    return Family.model_validate_json(json.dumps(data))


def evaluate(expression: str, values: Mapping[str, int]) -> int:
    """The value of an expression of names, integers, `+`, `-`, `*`, `//` and parentheses.

    Raises:
        ValueError: it has something else in it, or a name without a value.
    """
    return _value(ast.parse(expression, mode="eval").body, expression, values)


def _value(node: ast.expr, expression: str, values: Mapping[str, int]) -> int:
    match node:
        case ast.Constant(value=int(value)) if type(value) is int:
            return value
        case ast.Name(id=name) if name in values:
            return values[name]
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            sides = (_value(side, expression, values) for side in (left, right))
            return _OPERATORS[type(op)](*sides)
    raise ValueError(f"{expression!r}: {ast.unparse(node)!r} is no size, integer, + - * or //")


def _optional(config: Config, key: str) -> int:
    value = config.get(key)
    return int(value or 0) if value is None or isinstance(value, bool) else config.size(key)


def _layers(group: Group, kinds: list[str], values: Mapping[str, int]) -> Iterator[int]:
    """The numbers of the layers that have a group's tensors; one number, of no layer, if once."""
    if group.each is None:
        yield 0
    elif group.each in values:
        yield from range(values[group.each])
    else:
        chosen = set(kinds) if group.each == EVERY_LAYER else {group.each}
        yield from (number for number, kind in enumerate(kinds) if kind in chosen)
