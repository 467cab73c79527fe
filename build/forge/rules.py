"""Which rule of a recipe covers which tensor of a checkpoint; deny by default.

In a pattern, `*` stands for one part of a dotted name and `**` for one or more parts. Every
tensor must be covered by exactly one rule and every pattern must cover at least one tensor, so a
renamed, new or missing tensor in a base is an error before anything is built.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from forge.errors import RecipeError
from forge.recipe import Recipe

WEIGHT = ".weight"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What happens to each tensor of a base.

    `groups` are the quantized linears (module names); those in one group share their maxima.
    `keep` and `mtp` are tensor names. All in the order of the base.
    """

    groups: tuple[tuple[str, ...], ...]
    keep: tuple[str, ...]
    mtp: tuple[str, ...]

    @property
    def quantized(self) -> tuple[str, ...]:
        """The quantized linears' module names."""
        return tuple(module for group in self.groups for module in group)


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """The regular expression of a pattern; its groups are what the wildcards stand for."""
    parts = {"*": r"([^.]+)", "**": r"(.+)"}
    return re.compile(r"\.".join(parts.get(part, re.escape(part)) for part in pattern.split(".")))


def plan(recipe: Recipe, tensors: Iterable[str]) -> Plan:
    """Assigns every tensor name of a base to its rule.

    Raises:
        RecipeError: a tensor has no rule or two, a pattern matches nothing, or the MTP tensors of
            the base are not those that the recipe declares.
    """
    names = list(tensors)
    claims: dict[str, list[str]] = defaultdict(list)
    groups: list[tuple[str, ...]] = []
    for rule in recipe.quantize:
        places: dict[tuple[str, ...], list[str]] = defaultdict(list)
        for pattern in rule.modules:
            for name, place in _matches(recipe, pattern, names, suffix=WEIGHT):
                claims[name].append(pattern)
                module = name.removesuffix(WEIGHT)
                places[place if rule.shared_input else (module,)].append(module)
        groups.extend(tuple(modules) for modules in places.values())
    for kept in recipe.keep:
        for pattern in kept.tensors:
            for name, _ in _matches(recipe, pattern, names):
                claims[name].append(pattern)
    mtp = _claim_mtp(recipe, names, claims)
    _check_claims(recipe, names, claims)
    quantized = {module + WEIGHT for group in groups for module in group}
    position = {name: number for number, name in enumerate(names)}
    return Plan(
        groups=tuple(sorted(groups, key=lambda group: min(position[m + WEIGHT] for m in group))),
        keep=tuple(name for name in names if name not in quantized and name not in mtp),
        mtp=tuple(name for name in names if name in mtp),
    )


def _matches(
    recipe: Recipe, pattern: str, names: Sequence[str], suffix: str = ""
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


def _claim_mtp(
    recipe: Recipe, names: Sequence[str], claims: Mapping[str, list[str]]
) -> frozenset[str]:
    """Claims the MTP tensors that lie in the base; with a donor the base may have none."""
    there = {name for name in names if name.startswith("mtp.")}
    declared = frozenset(recipe.mtp.tensors)
    missing = sorted(declared - there) if recipe.mtp.source == "base" else []
    if missing:
        raise RecipeError(
            f"{recipe.name}.toml: mtp.tensors declares {missing[0]!r}, which the base does not "
            f"have ({len(missing)} missing). Take the head from a donor, or correct the list."
        )
    for name in sorted(there & declared):
        claims[name].append("mtp.tensors")
    return frozenset(there & declared)


def _check_claims(
    recipe: Recipe, names: Sequence[str], claims: Mapping[str, Sequence[str]]
) -> None:
    unclaimed = [name for name in names if name not in claims]
    if unclaimed:
        raise RecipeError(
            f"{recipe.name}.toml: no rule covers the tensor {unclaimed[0]!r} of the base "
            f"({len(unclaimed)} uncovered). Name it under [[quantize]], [[keep]] or mtp.tensors."
        )
    for name in names:
        if len(claims[name]) > 1:
            first, second = claims[name][:2]
            raise RecipeError(
                f"{recipe.name}.toml: the tensor {name!r} is covered by two rules, {first!r} "
                f"and {second!r}; make them exclude each other."
            )
