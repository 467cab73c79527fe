"""What decides a calibration, by recipe and plan alone; the record repeats the digest of it.

Of the plan it takes what an engine is told, so nothing here imports how a plan is made.
"""

from typing import TYPE_CHECKING, Any

from forge.core import canonical

if TYPE_CHECKING:
    from forge.recipes.recipe import Recipe
    from forge.tensors.plan import Plan


def parameters(recipe: "Recipe", plan: "Plan", config_groups: Any) -> dict[str, Any]:
    """The samples, the engine, and of the plan what an engine is told.

    Args:
        recipe: says which samples go through which engine.
        plan: says which linears are watched.
        config_groups: those of the quantization config, by which llm-compressor knows the formats.
    """
    told: dict[str, Any] = {"linears": watched(plan)}
    if recipe.calibration.engine == "llm-compressor":
        told["config_groups"] = config_groups
    return _of_recipe(recipe) | {
        "fused": [rule.model_dump(mode="json") for rule in recipe.fused],
        # Tens of thousands of names, in a mixture of experts.
        "told_sha256": canonical.sha256_text(canonical.dumps(told)),
    }


def watched(plan: "Plan") -> list[tuple[str, ...]]:
    """The groups of linears whose inputs have a scale; linears of one group share their format."""
    calibrated = set(plan.calibrated)
    return [group for group in plan.groups if calibrated.issuperset(group)]


def digest(recipe: "Recipe", plan: "Plan") -> str:
    """What a record says that it was made by."""
    decides = {**_of_recipe(recipe), "groups": watched(plan)}
    return canonical.sha256_text(canonical.dumps(decides))


def _of_recipe(recipe: "Recipe") -> dict[str, Any]:
    return {
        "architecture": recipe.architecture,
        "calibration": recipe.calibration.model_dump(mode="json"),
    }
