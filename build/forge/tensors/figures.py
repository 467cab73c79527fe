"""Figures of the structural checks that follow from plan, config and errors alone.

The gate of a build measures and judges by them; whoever verifies a release derives them again.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from math import isfinite

from forge.manifest.stored_figures import Parallel, Weights, Worst
from forge.recipes.recipe import Recipe
from forge.tensors import family, parallel, vllm_names
from forge.tensors.family import Config
from forge.tensors.plan import Plan
from forge.tensors.weight_errors import Error


def devices(recipe: Recipe, plan: Plan, config: Config) -> Parallel:
    """On how many devices engines can divide a checkpoint, by the sizes in its base's config."""
    found = parallel.table(family.find(config), config, plan, recipe.serve.devices)
    return Parallel(devices={str(count): tuple(wrong) for count, wrong in found.items()})


def fused_scales(plan: Plan) -> Mapping[str, list[str]]:
    """The global scales that an engine takes one of, by the name of the one; two or more each."""
    fused: dict[str, list[str]] = defaultdict(list)
    for module, linear in plan.linears.items():
        for suffix in linear.format.global_scales:
            fused[f"{vllm_names.fused(module)}.{suffix}"].append(f"{module}.{suffix}")
    return {scale: names for scale, names in fused.items() if len(names) > 1}


def weights(errors: Iterable[Error]) -> Weights:
    """The worst linear of each format, and those that are zero in the base.

    Args:
        errors: those of all linears, by module.
    """
    errors = list(errors)
    by_format: dict[str, list[Error]] = defaultdict(list)
    for error in errors:
        by_format[error.format].append(error)
    worst = {name: max(some, key=lambda one: one.relative) for name, some in by_format.items()}
    return Weights(
        formats={
            name: Worst(
                linears=len(by_format[name]),
                module=one.module,
                # JSON has no infinity.
                relative=one.relative if isfinite(one.relative) else None,
            )
            for name, one in worst.items()
        },
        zeros=tuple(error.module for error in errors if error.squared_norm == 0),
    )
