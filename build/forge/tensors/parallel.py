"""On how many devices an engine can divide a checkpoint (tensor parallelism), and where it cannot.

A linear is divided in whole units, such as heads, by its rows or its columns. Where the columns of
a quantized linear are divided, each part must hold whole blocks of the format, since a scale cannot
lie on two devices (`ModelOptNvFp4LinearMethod.create_weights` of vLLM 0.32 refuses it at load).
"""

from collections.abc import Iterable

from forge.tensors.family import Config, Family, Split, evaluate
from forge.tensors.plan import Plan, compile_pattern

DEVICES = (1, 2, 4, 8)


def table(
    family: Family, config: Config, plan: Plan, served: Iterable[int] = ()
) -> dict[int, list[str]]:
    """What keeps a checkpoint from being divided among 1, 2, 4 and 8 devices; nothing if it can.

    Args:
        family: says how linears are divided.
        config: gives the sizes.
        plan: says which linears are quantized, and how.
        served: other numbers of devices.
    """
    counts = sorted({*DEVICES, *served})
    return {count: faults(family, config, plan, count) for count in counts}


def faults(family: Family, config: Config, plan: Plan, devices: int) -> list[str]:
    """What keeps a checkpoint from being divided among so many devices, a line each."""
    values = family.values(config)
    found = []
    for split in family.splits:
        found += [
            f"{split.linears[0]}: {count} ({unit}) cannot be divided by {devices}"
            for unit in split.units
            if not _divides(count := evaluate(unit, values), devices, copied=split.copied)
        ]
        if split.along == "columns":
            found += _cut_blocks(split, plan, devices)
    return found


def _divides(count: int, devices: int, *, copied: bool) -> bool:
    return count % devices == 0 or (copied and count > 0 and devices % count == 0)


def _cut_blocks(split: Split, plan: Plan, devices: int) -> list[str]:
    """The kinds of quantized linears of which a block would lie on two devices."""
    wanted = [compile_pattern(f"**.{name}") for name in split.linears]
    found: dict[tuple[int, int], str] = {}
    for module, linear in plan.linears.items():
        if any(pattern.fullmatch(module) for pattern in wanted):
            columns, block = linear.place.shape[1], linear.format.block
            if columns % (devices * block):
                found.setdefault((columns, block), module)
    return [
        f"{module}: {columns} columns cannot be divided by {devices} in blocks of {block}"
        for (columns, block), module in found.items()
    ]
