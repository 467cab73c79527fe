"""The error of every quantized linear, as a build lists them: `quantization_error.jsonl`.

How it is computed is in :mod:`forge.tensors.quantization_error`; whoever reads the list needs no
compiled loops.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf, isnan, sqrt

from forge.core import canonical


@dataclass(frozen=True, kw_only=True)
class Error:
    """A linear's squared error and squared norm, and the format that it is stored in."""

    module: str
    format: str
    squared_error: float
    squared_norm: float

    @property
    def relative(self) -> float:
        """|Q - W| / |W|; infinite if a NaN is stored, or anything but zeros of a zero weight."""
        if self.squared_error == 0:
            return 0.0
        if self.squared_norm == 0 or isnan(self.squared_error):
            return inf
        return sqrt(self.squared_error / self.squared_norm)


def lines(errors: Iterable[Error]) -> str:
    """A line of canonical JSON a linear."""
    return "".join(
        canonical.dumps(
            {
                "module": error.module,
                "format": error.format,
                "squared_error": error.squared_error,
                "squared_norm": error.squared_norm,
            }
        )
        + "\n"
        for error in errors
    )


def parse(text: str) -> list[Error]:
    """What `lines` wrote."""
    return [Error(**canonical.loads(line.encode())) for line in text.splitlines()]
