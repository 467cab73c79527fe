"""Refuses scales of blocks and rows that no build of a recipe stores, whatever the weights are.

They follow from the weights, so what exactly they are only a rebuild shows. But each format has
values that it never stores, and a global scale is chosen so that one block has the largest value
of all. `forge.tensors.formats` says which these are.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from forge.core.errors import ReleaseError
from forge.tensors.formats import Format
from forge.tensors.plan import Linear, Plan

# The smallest and the largest bits of a tensor.
Extremes = tuple[int, int]


def check(plan: Plan, found: Mapping[str, Extremes], numbers: Mapping[str, bytes]) -> None:
    """Holds the scales of blocks and rows to what their formats store.

    Args:
        plan: which linears are stored in which format, and which share a global scale.
        found: the extremes of each tensor of such scales.
        numbers: the bytes of the global scales.

    Raises:
        ReleaseError: naming the tensor and the value.
    """
    for group in plan.groups:
        linears = [plan.linears[module] for module in group]
        for linear in linears:
            _require_possible(linear, found[_name(linear)])
        _require_full(linears, found, numbers)


def require_zeros(linear: Linear, found: Mapping[str, Extremes]) -> None:
    """Refuses scales of a linear that is said to be zero, if they are not those of zeros.

    Raises:
        ReleaseError: naming the tensor and the value.
    """
    kind, zero = linear.format, linear.format.scale_bits.zero
    for bits in found[_name(linear)]:
        if bits != zero:
            raise ReleaseError(
                f"{_name(linear)}: holds {_value(kind, bits)}, though the weight is said to be "
                f"zero, and the scale of zeros is {_value(kind, zero)}."
            )


def _require_possible(linear: Linear, ends: Extremes) -> None:
    kind, allowed = linear.format, linear.format.scale_bits
    for bits in ends:
        if not allowed.smallest <= bits <= allowed.largest:
            raise ReleaseError(
                f"{_name(linear)}: holds {_value(kind, bits)}, which no build stores: scales of "
                f"{kind.label} are {_value(kind, allowed.smallest)} to "
                f"{_value(kind, allowed.largest)}."
            )


def _require_full(
    linears: Sequence[Linear], found: Mapping[str, Extremes], numbers: Mapping[str, bytes]
) -> None:
    """Refuses linears that share a global scale, if none of their blocks has the largest scale."""
    largest = max(linears, key=lambda one: found[_name(one)][1])
    kind, most = largest.format, found[_name(largest)][1]
    allowed = kind.scale_bits
    if allowed.full is None or allowed.full == most:
        return
    # Weights that are zero, or so small that their global scale is not representable.
    nothing = {(allowed.zero, allowed.zero)}
    scales = {numbers[f"{one.module}.{one.format.global_scales[0]}"] for one in linears}
    if {found[_name(one)] for one in linears} == nothing and scales == {np.float32(1).tobytes()}:
        return
    raise ReleaseError(
        f"{_name(largest)}: its largest scale is {_value(kind, most)}; of the {len(linears)} "
        "linear layer(s) that share this global scale, one has a block with "
        f"{_value(kind, allowed.full)}."
    )


def _name(linear: Linear) -> str:
    return f"{linear.module}.{linear.format.block_scale}"


def _value(kind: Format, bits: int) -> float:
    spec = kind.specs("", (1, kind.block))[1]
    data = bits.to_bytes(spec.nbytes, "little")
    return float(kind.scales[kind.block_scale](data)[0])
