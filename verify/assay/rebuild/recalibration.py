"""Calibrates again, and tells how far each input scale is from the released one.

Only the forward passes depend on the hardware, so on another machine some scales are expected to
be off: that is reported, and is no failure of the release.
"""

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from assay.rebuild import tables
from forge import pipeline
from forge.calibration import record
from forge.core import console
from forge.core.errors import CalibrationError
from forge.core.results import Result
from forge.pipeline import Job

WORST = 10


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The input scale of a linear: as released, and from a calibration here."""

    module: str
    released: float
    here: float

    @property
    def relative(self) -> float:
        """How far it is off, as a part of what was released."""
        return abs(self.here - self.released) / self.released


def require_libraries() -> None:
    """Refuses early what would fail late.

    Raises:
        CalibrationError: this environment cannot calibrate.
    """
    if importlib.util.find_spec("modelopt") is None:
        raise CalibrationError(
            "calibrating again needs modelopt, which this environment does not have.",
            remedy="no-modelopt",
        )


def compare(job: Job, fetched: Result, released: Path) -> tuple[Scale, ...]:
    """Runs the calibrate step in the job's store and sets its record beside the released one."""
    again = pipeline.run(job, until="calibrate", given={"fetch": fetched})["calibrate"]
    records = (released, again.files / record.FILE)
    devices = [record.origin(path).get("device") for path in records]
    console.say(f"the released record is from {devices[0]}, the new one from {devices[1]}")
    plan = pipeline.work_on(job, {"fetch": fetched}).checkpoint.plan
    then, now = (record.read(path, plan.calibrated) for path in records)

    def stored(module: str, maxima: Mapping[str, np.float32]) -> float:
        # Calibrated linears are those whose format stores a scale of the input.
        scale = plan.linears[module].format.global_scale
        return float(scale(maxima[module])) if scale else 0.0

    return tuple(
        Scale(
            module=module,
            released=stored(module, then),
            here=stored(module, now),
        )
        for module in plan.calibrated
    )


def show(scales: Sequence[Scale]) -> None:
    """Prints the scales that are furthest off, how many are equal, and the largest difference."""
    worst = sorted(scales, key=lambda scale: scale.relative, reverse=True)
    equal = sum(scale.here == scale.released for scale in scales)
    tables.table(
        ("input scale", "released", "here", "relative"),
        [
            (one.module, f"{one.released:.8g}", f"{one.here:.8g}", f"{one.relative:.2e}")
            for one in worst[:WORST]
            if one.relative
        ],
    )
    others = f", the others off by up to {worst[0].relative:.2e}" if equal < len(scales) else ""
    tables.say(f"calibrated again: {equal} of {len(scales)} input scales equal{others}")
