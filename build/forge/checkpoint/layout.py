"""The tensors of each shard of a checkpoint, in their order, from headers and rules alone.

Quantize writes what this says, and verify-release expects it.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from forge.recipes.recipe import Recipe
from forge.tensors.plan import Linear, Plan
from forge.tensors.tensorfile import Spec

# The shard of the MTP head.
HEAD = "model-mtp.safetensors"


def decided(recipe: Recipe) -> dict[str, Any]:
    """What of a recipe decides the body's shards, beside base and calibration record."""
    rules = {
        "fused": recipe.fused, "quantize": recipe.quantize, "keep": recipe.keep,
        "remove": recipe.remove,
    }  # fmt: skip
    return {
        **{
            key: [rule.model_dump(mode="json", exclude={"why"}) for rule in group]
            for key, group in rules.items()
        },
        "mtp": list(recipe.mtp.tensors),
        "loader": recipe.layout.loader,
        "shard_bytes": recipe.layout.shard_bytes,
    }


def body(base: Mapping[str, Spec], plan: Plan, shard_bytes: int) -> dict[str, list[Spec]]:
    """The tensors of each shard of the body by its name.

    Args:
        base: the tensors of the base by name, in the order of their data.
        plan: what becomes of each.
        shard_bytes: the largest shard; a larger tensor gets a shard of its own.

    Raises:
        QuantizeError: a weight that its format cannot hold.
    """
    return _filled(_emitted(base, plan), shard_bytes)


def head(specs: Iterable[Spec]) -> list[Spec]:
    """The tensors of the head's shard in their order."""
    return sorted(specs, key=lambda spec: spec.name)


def _emitted(base: Mapping[str, Spec], plan: Plan) -> Iterator[Spec]:
    """What is written, in order: a kept tensor at its place, a group where its last member lies."""
    parts = plan.by_tensor()
    group_of = {module: group for group in plan.groups for module in group}
    keep = set(plan.keep)
    seen: dict[tuple[str, ...], list[Linear]] = {group: [] for group in plan.groups}
    for name, spec in base.items():
        if name in keep:
            yield spec
        for linear in parts.get(name, ()):
            linear.format.check(linear.module, spec.dtype, linear.place.shape)
            members = seen[group_of[linear.module]]
            members.append(linear)
            if len(members) == len(group_of[linear.module]):
                for member in members:
                    yield from member.format.specs(member.module, member.place.shape)


def _filled(specs: Iterable[Spec], shard_bytes: int) -> dict[str, list[Spec]]:
    """Fills shards in order; none exceeds `shard_bytes` unless one tensor alone does."""
    shards: list[list[Spec]] = [[]]
    size = 0
    for spec in specs:
        if shards[-1] and size + spec.nbytes > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(spec)
        size += spec.nbytes
    return {
        f"model-{number:05d}-of-{len(shards):05d}.safetensors": shard
        for number, shard in enumerate(shards, start=1)
    }
