"""Which rule of a recipe covers which tensor of a checkpoint; deny by default.

In a pattern, `*` stands for one part of a dotted name and `**` for one or more parts. Every
tensor must be covered by exactly one rule and every pattern must cover at least one tensor, so a
renamed, new or missing tensor in a base is an error before anything is built.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from forge.core.errors import RecipeError
from forge.recipes.recipe import Recipe
from forge.tensors import formats, vllm_names
from forge.tensors.formats import Format, Shape

WEIGHT = ".weight"
MTP = "mtp."


class Shaped(Protocol):
    """What is asked of a base's tensors here."""

    @property
    def shape(self) -> Shape:
        """Its dimensions."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a matrix lies: `shape` of `tensor`, after `start` elements of it."""

    tensor: str
    start: int
    shape: Shape


@dataclass(frozen=True, kw_only=True)
class Linear:
    """A linear that is quantized: its module name, its format, and where its weight lies."""

    module: str
    format: Format
    place: Place


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What happens to each tensor of a base, in the order of the base.

    `groups` are the quantized linears (module names); those in one group share their maxima and
    their format. `linears` has them by module name. `keep`, `mtp` and `removed` are tensor names.
    """

    groups: tuple[tuple[str, ...], ...]
    linears: Mapping[str, Linear]
    keep: tuple[str, ...]
    mtp: tuple[str, ...]
    removed: tuple[str, ...]

    @property
    def quantized(self) -> tuple[str, ...]:
        """The quantized linears' module names."""
        return tuple(module for group in self.groups for module in group)

    @property
    def calibrated(self) -> tuple[str, ...]:
        """The modules of those linears whose inputs have a scale, hence a maximum."""
        return tuple(
            module for module in self.quantized if self.linears[module].format.global_scale
        )

    def by_tensor(self) -> dict[str, list[Linear]]:
        """The linears by the tensor that holds their weights, in the order of the data."""
        found: dict[str, list[Linear]] = defaultdict(list)
        for linear in self.linears.values():
            found[linear.place.tensor].append(linear)
        return {
            name: sorted(linears, key=lambda linear: linear.place.start)
            for name, linears in found.items()
        }


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """The regular expression of a pattern; its groups are what the wildcards stand for."""
    parts = {"*": r"([^.]+)", "**": r"(.+)"}
    return re.compile(r"\.".join(parts.get(part, re.escape(part)) for part in pattern.split(".")))


def make_plan(recipe: Recipe, tensors: Mapping[str, Shaped]) -> Plan:
    """Assigns every tensor of a base to its rule.

    Raises:
        RecipeError: a tensor has no rule or two, a pattern matches nothing, a tensor cannot be
            split as [[fused]] says, the MTP tensors of the base are not those that the recipe
            declares, or linears that engines fuse would differ in format or global scale.
    """
    fused = _split(recipe, tensors)
    whole = {
        name: Place(tensor=name, start=0, shape=tuple(tensor.shape))
        for name, tensor in tensors.items()
        if name not in fused
    }
    weights = {**whole, **{name: place for part in fused.values() for name, place in part.items()}}
    claims: dict[str, list[str]] = defaultdict(list)
    groups: list[tuple[str, ...]] = []
    linears: dict[str, Linear] = {}
    for rule in recipe.quantize:
        kind = formats.find(recipe.layout.loader, rule.format)
        shared: dict[tuple[str, ...], list[str]] = defaultdict(list)
        for pattern in rule.modules:
            for name, wildcards in _matches(recipe, pattern, weights, suffix=WEIGHT):
                claims[name].append(pattern)
                module = name.removesuffix(WEIGHT)
                linears[module] = Linear(module=module, format=kind, place=weights[name])
                shared[wildcards if rule.shared_input else (module,)].append(module)
        groups.extend(tuple(modules) for modules in shared.values())
    _claim(recipe, claims, whole, [p for rule in recipe.keep for p in rule.tensors])
    removed = _claim(recipe, claims, whole, [p for rule in recipe.remove for p in rule.tensors])
    mtp = _claim_mtp(recipe, whole, claims)
    _check_claims(recipe, weights, claims)
    _check_siblings(recipe, weights, linears, groups)
    position = {name: number for number, name in enumerate(tensors)}
    elsewhere = {*mtp, *removed, *(linear.place.tensor for linear in linears.values())}

    def order(group: tuple[str, ...]) -> tuple[int, int]:
        places = (linears[module].place for module in group)
        return min((position[place.tensor], place.start) for place in places)

    return Plan(
        groups=tuple(sorted(groups, key=order)),
        linears=linears,
        keep=tuple(name for name in tensors if name not in elsewhere),
        mtp=tuple(name for name in tensors if name in mtp),
        removed=tuple(name for name in tensors if name in removed),
    )


def head_source(recipe: Recipe, tensors: Collection[str]) -> Literal["base", "donor"] | None:
    """Where the head is taken from, given the base's tensors: "base", "donor", or None."""
    if recipe.mtp.source == "dropped":
        return None
    if recipe.mtp.source == "base-else-donor":
        return "base" if any(name.startswith(MTP) for name in tensors) else "donor"
    return recipe.mtp.source


def _split(recipe: Recipe, tensors: Mapping[str, Shaped]) -> dict[str, dict[str, Place]]:
    """The fused tensors, each with the weights that lie in it, by their names."""
    found: dict[str, dict[str, Place]] = {}
    for rule in recipe.fused:
        for pattern in rule.tensors:
            for name, _ in _matches(recipe, pattern, tensors):
                found[name] = _slices(recipe, name, tuple(tensors[name].shape), rule.linears)
    return found


def _slices(recipe: Recipe, name: str, shape: Shape, linears: Sequence[str]) -> dict[str, Place]:
    if len(shape) != 3 or shape[1] % len(linears):
        raise RecipeError(
            f"{recipe.name}.toml: [[fused]] splits {name!r} into {len(linears)} linear(s) an "
            f"expert, but its shape is {list(shape)}; it must be [experts, rows, columns] with "
            f"a multiple of {len(linears)} rows."
        )
    experts, rows, columns = shape[0], shape[1] // len(linears), shape[2]
    parent = name.rpartition(".")[0]
    return {
        f"{parent}.{expert}.{linear}{WEIGHT}": Place(
            tensor=name,
            start=(expert * len(linears) + number) * rows * columns,
            shape=(rows, columns),
        )
        for expert in range(experts)
        for number, linear in enumerate(linears)
    }


def _matches(
    recipe: Recipe, pattern: str, names: Iterable[str], suffix: str = ""
) -> list[tuple[str, tuple[str, ...]]]:
    """The names that a pattern covers, each with what its wildcards stand for."""
    regex = compile_pattern(pattern + suffix)
    found = [(name, match.groups()) for name in names if (match := regex.fullmatch(name))]
    if not found:
        raise RecipeError(
            f"{recipe.name}.toml: the pattern {pattern!r} matches no tensor of the base; "
            "remove it, or correct it to the base's tensor names."
        )
    return found


def _claim(
    recipe: Recipe,
    claims: Mapping[str, list[str]],
    names: Collection[str],
    patterns: Iterable[str],
) -> frozenset[str]:
    """Claims the tensors that patterns cover."""
    found = [(name, p) for p in patterns for name, _ in _matches(recipe, p, names)]
    for name, pattern in found:
        claims[name].append(pattern)
    return frozenset(name for name, _ in found)


def _claim_mtp(
    recipe: Recipe, names: Collection[str], claims: Mapping[str, list[str]]
) -> frozenset[str]:
    """Claims the MTP tensors that lie in the base; a base that a donor helps may have none."""
    declared = frozenset(recipe.mtp.tensors)
    there = declared & set(names)
    whole = recipe.mtp.source != "donor" and head_source(recipe, names) != "donor"
    if whole and (missing := sorted(declared - there)):
        raise RecipeError(
            f"{recipe.name}.toml: mtp.tensors declares {missing[0]!r}, which the base does not "
            f"have ({len(missing)} missing). Take the head from a donor, or correct the list."
        )
    for name in sorted(there):
        claims[name].append("mtp.tensors")
    return there


def _check_claims(
    recipe: Recipe, names: Iterable[str], claims: Mapping[str, Sequence[str]]
) -> None:
    unclaimed = [name for name in names if name not in claims]
    if unclaimed:
        raise RecipeError(
            f"{recipe.name}.toml: no rule covers the tensor {unclaimed[0]!r} of the base "
            f"({len(unclaimed)} uncovered). Name it under [[quantize]], [[keep]], [[remove]] or "
            "mtp.tensors."
        )
    for name in names:
        if len(claims[name]) > 1:
            first, second = claims[name][:2]
            raise RecipeError(
                f"{recipe.name}.toml: the tensor {name!r} is covered by two rules, {first!r} "
                f"and {second!r}; make them exclude each other."
            )


def _check_siblings(
    recipe: Recipe,
    weights: Mapping[str, Place],
    linears: Mapping[str, Linear],
    groups: Iterable[Sequence[str]],
) -> None:
    """Refuses linears of one fused matrix of the engines that differ in format or global scale."""
    group = {module: number for number, modules in enumerate(groups) for module in modules}
    siblings: dict[str, list[str]] = defaultdict(list)
    for name, place in weights.items():
        if name.endswith(WEIGHT) and len(place.shape) == 2:
            module = name.removesuffix(WEIGHT)
            siblings[vllm_names.fused(module)].append(module)
    for matrix, (first, *others) in siblings.items():
        for other in others:
            kinds = [linears[one].format if one in linears else None for one in (first, other)]
            if kinds[0] != kinds[1]:
                stored = [kind.name if kind else "not quantized" for kind in kinds]
                raise RecipeError(
                    f"{recipe.name}.toml: {first!r} is {stored[0]} and {other!r} is {stored[1]}, "
                    f"but engines fuse them into {matrix!r}, which has one format. Give both the "
                    "same."
                )
            if kinds[0] and kinds[0].global_scale and group[first] != group[other]:
                raise RecipeError(
                    f"{recipe.name}.toml: {first!r} and {other!r} would have global scales of "
                    f"their own, but engines fuse them into {matrix!r} and take one for both. "
                    "Name them in one [[quantize]] rule with `shared_input = true`."
                )
