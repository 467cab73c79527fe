"""Lists the variants: a line each on the command line, a table in the docs."""

from collections import defaultdict
from collections.abc import Iterable

from forge.recipes import recipe
from forge.recipes.recipe import CalibrationSet, Recipe

COLUMNS = (
    "variant", "real build", "base", "quantized", "in BF16", "calibration", "MTP head", "served",
    "published",
)  # fmt: skip
LAYERS = "model.language_model.layers.*."
# How answers are parsed is the same in all.
PARSERS = {"reasoning-parser", "tool-call-parser", "enable-auto-tool-choice"}


def row(variant: Recipe) -> tuple[str, ...]:
    """A variant in words, column by column."""
    return (
        variant.name,
        readiness(variant),
        variant.base.repo,
        f"{_quantized(variant)} ({variant.layout.loader})",
        ", ".join(rule.what for rule in variant.keep),
        _calibration(variant),
        _mtp(variant),
        _served(variant),
        _published(variant),
    )


def readiness(variant: Recipe) -> str:
    """`ready`, or `not ready: ` and every reason why a real build is refused."""
    reasons = []
    if pins := variant.open_pins:
        reasons.append(f"no commit is pinned for {', '.join(pins)}")
    if variant.not_ready is not None:
        reasons.append(variant.not_ready)
    return f"not ready: {'; '.join(reasons)}" if reasons else "ready"


def line(variant: Recipe) -> str:
    """A variant on one line."""
    name, state, *rest = row(variant)
    told = (f"{column}: {cell}" for column, cell in zip(COLUMNS[2:], rest, strict=True) if cell)
    return f"{name}  {'; '.join([state, *told])}"


def table() -> str:
    """All variants as a Markdown table, as docs/variants.md has it."""
    rows = [row(recipe.find(name)) for name in recipe.names()]
    marked = [(f"`{name}`", *rest) for name, *rest in rows]
    return "\n".join(map(_cells, [COLUMNS, ("---",) * len(COLUMNS), *marked])) + "\n"


def _cells(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("*", "\\*") for cell in cells) + " |"


def _quantized(variant: Recipe) -> str:
    """The linears of each format, those of one module together."""
    formats: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for rule in variant.quantize:
        for pattern in rule.modules:
            parent, _, name = pattern.removeprefix(LAYERS).rpartition(".")
            formats[rule.format][parent].append(name.removesuffix("_proj"))
    return "; ".join(
        f"{name.upper()}: "
        + ", ".join(f"{parent} {'/'.join(linears)}" for parent, linears in parents.items())
        for name, parents in formats.items()
    )


def _calibration(variant: Recipe) -> str:
    sets = ", ".join(map(_set, variant.calibration.sets.values()))
    everywhere = ", all experts" if variant.calibration.all_experts else ""
    return f"{variant.calibration.engine}: {sets}{everywhere}"


def _set(one: CalibrationSet) -> str:
    joined = " (rows joined)" if one.rows == "joined" else ""
    return f"{one.samples} x {one.max_tokens} of {one.repo} {one.config}{joined}"


def _mtp(variant: Recipe) -> str:
    head = f"{len(variant.mtp.tensors)} tensors, "
    if variant.mtp.donor is None:
        return "dropped on purpose" if variant.mtp.source == "dropped" else f"{head}the base's"
    whose = f"those of {variant.mtp.donor.repo}"
    return head + (f"the base's, else {whose}" if "base" in variant.mtp.source else whose)


def _served(variant: Recipe) -> str:
    serve = variant.serve
    told = [f"MTP n={serve.speculative_tokens}"] if serve.speculative_tokens else []
    told += [f"{key}={value}" for key, value in serve.env.items()]
    told += [
        f"--{key}" if value is True else f"--{key} {value}"
        for key, value in serve.args.items()
        if key not in PARSERS
    ]
    told += [f"also as {name}" for name in serve.profiles]
    return ", ".join(told)


def _published(variant: Recipe) -> str:
    sources: dict[str, list[str]] = defaultdict(list)
    for figure in variant.published:
        sources[figure.source].append(f"{figure.figure}: {figure.value}")
    return "; ".join(f"{', '.join(told)} ({source})" for source, told in sources.items())
