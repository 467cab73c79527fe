"""Refuses scales of blocks and rows that no build of a recipe stores, whatever the weights are.

They follow from the weights, so what exactly they are only a rebuild shows. But each format has
values that it never stores, and a global scale is chosen so that one block has the largest value
of all. `forge.tensors.formats` says which these are.
"""

from collections.abc import Mapping

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
        extremes = [found[_name(linear)] for linear in linears]
        for linear, ends in zip(linears, extremes, strict=True):
            _require_possible(linear, ends)
        stored = linears[0].format.stored
        if stored.full is None or max(most for _, most in extremes) == stored.full:
            continue
        scales = [numbers[f"{one.module}.{one.format.global_scales[0]}"] for one in linears]
        # Weights that are zero, or so small that their global scale is not representable.
        nothing = {(stored.zero, stored.zero)}
        if {*extremes} != nothing or {*scales} != {np.float32(1).tobytes()}:
            most = max(most for _, most in extremes)
            linear = next(
                one for one, (_, its) in zip(linears, extremes, strict=True) if its == most
            )
            kind = linear.format
            raise ReleaseError(
                f"{_name(linear)}: its largest scale is {_value(kind, most)}; of the "
                f"{len(group)} linear layer(s) that share this global scale, one has a block with "
                f"{_value(kind, stored.full)}."
            )


def require_zeros(linear: Linear, found: Mapping[str, Extremes]) -> None:
    """Refuses scales of a linear that is said to be zero, if they are not those of zeros.

    Raises:
        ReleaseError: naming the tensor and the value.
    """
    kind, zero = linear.format, linear.format.stored.zero
    for bits in found[_name(linear)]:
        if bits != zero:
            raise ReleaseError(
                f"{_name(linear)}: holds {_value(kind, bits)}, though the weight is said to be "
                f"zero, and the scale of zeros is {_value(kind, zero)}."
            )


def _require_possible(linear: Linear, ends: Extremes) -> None:
    kind, stored = linear.format, linear.format.stored
    for bits in ends:
        if not stored.smallest <= bits <= stored.largest:
            raise ReleaseError(
                f"{_name(linear)}: holds {_value(kind, bits)}, which no build stores: scales of "
                f"{kind.label} are {_value(kind, stored.smallest)} to "
                f"{_value(kind, stored.largest)}."
            )


def _name(linear: Linear) -> str:
    return f"{linear.module}.{linear.format.block_scale}"


def _value(kind: Format, bits: int) -> float:
    spec = kind.specs("", (1, kind.block))[1]
    data = bits.to_bytes(spec.nbytes, "little")
    return float(kind.scales[kind.block_scale](data)[0])
