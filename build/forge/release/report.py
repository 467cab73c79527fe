"""The report of a release: one HTML file that opens offline, charts and tables from its facts."""

import re
from collections import defaultdict
from math import sqrt

from markupsafe import Markup

from forge.core.sizes import size
from forge.release import charts
from forge.release.card import environment
from forge.release.charts import Bar, Dot
from forge.release.facts import Facts
from forge.tensors.parts import family
from forge.tensors.weight_errors import Error

LAYER = re.compile(r"\blayers\.(\d+)\.")
# Colours of the page; more families than this share the last one.
COLOURS = 8


def report(facts: Facts) -> str:
    """report.html."""
    kinds = _kinds(facts.errors)
    return (
        environment()
        .get_template("report.html.jinja")
        .render(
            facts=facts,
            sizes=_sizes(facts),
            errors=_errors(facts, kinds),
            kinds=kinds,
            worst=sorted(facts.errors, key=lambda error: -error.relative)[:8],
            zeros=[error.module for error in facts.errors if error.squared_norm == 0],
            perplexity=_perplexity(facts),
            acceptance=_acceptance(facts),
        )
    )


def _sizes(facts: Facts) -> Markup:
    rows = [
        Bar(
            label=f"{part.name}, {part.stored_as}",
            value=part.nbytes,
            text=size(part.nbytes),
            kind=part.stored_as.lower() if part.stored_as in {"NVFP4", "FP8"} else "plain",
        )
        for part in facts.parts
    ]
    return charts.bars(rows, title="Size by class of tensor")


def _kinds(errors: tuple[Error, ...]) -> dict[str, str]:
    """The class of colour of each family of linears."""
    families = sorted({family(error.module) for error in errors})
    return {name: f"c{min(number, COLOURS - 1)}" for number, name in enumerate(families)}


def _errors(facts: Facts, kinds: dict[str, str]) -> Markup | None:
    """Every linear over its layer, and each layer as a whole; nothing, if they have no layers."""
    points: list[Dot] = []
    sums: dict[int, list[Error]] = defaultdict(list)
    for error in facts.errors:
        if found := LAYER.search(error.module):
            layer = int(found[1])
            sums[layer].append(error)
            points.append(
                Dot(
                    x=layer,
                    y=100 * error.relative,
                    kind=kinds[family(error.module)],
                    title=f"{error.module}: {error.relative:.2%}",
                )
            )
    if not points:
        return None
    line = [(float(layer), 100 * _together(errors)) for layer, errors in sorted(sums.items())]
    return charts.dots(
        points, line, title="Quantization error by layer", x="layer", y="relative error in %"
    )


def _together(errors: list[Error]) -> float:
    squared = sum(error.squared_error for error in errors)
    norm = sum(error.squared_norm for error in errors)
    return sqrt(squared / norm) if norm else 0.0  # zeros are stored as zeros


def _perplexity(facts: Facts) -> Markup | None:
    found = facts.perplexity
    if found is None:
        return None
    rows = [
        Bar(label="base", value=found.base, text=f"{found.base:.3f}"),
        Bar(
            label="this",
            value=found.result,
            text=f"{found.result:.3f}",
            kind="nvfp4",
            limit=found.base * facts.recipe.perplexity.max_ratio,
        ),
    ]
    return charts.bars(rows, title="Perplexity")


def _acceptance(facts: Facts) -> Markup | None:
    found = facts.acceptance
    if found is None:
        return None
    floors = facts.recipe.serve.acceptance_floor
    rows = [
        Bar(
            label=f"position {number}",
            value=rate,
            text=f"{rate:.1%}",
            kind="nvfp4",
            limit=floor,
        )
        for number, (rate, floor) in enumerate(zip(found.acceptance, floors, strict=True), start=1)
    ]
    return charts.bars(rows, title="Accepted drafts by position", full=1)
