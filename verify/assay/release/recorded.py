"""Holds a release to what its steps recorded, and its input scales to its calibration record."""

from collections.abc import Callable, Mapping

import numpy as np

from forge.calibration import record
from forge.core.errors import ReleaseError
from forge.manifest.names import PROVENANCE
from forge.manifest.provenance import Manifest
from forge.tensors.small_floats import divisor, global_scale

# Where each loader's format stores what becomes of an input maximum, and what that is.
SCALES: Mapping[str, Callable[[np.float32], np.float32]] = {
    "input_scale": global_scale,
    "input_global_scale": divisor,
}


def check(
    manifest: Manifest,
    checkpoint: Mapping[str, str],
    *,
    maxima: Mapping[str, bytes],
    scales: Mapping[str, bytes],
) -> str:
    """Compares records with outcomes.

    Args:
        manifest: what is stated.
        checkpoint: the sha256 of every file that was built.
        maxima: the bytes of each input maximum in the calibration record.
        scales: the bytes of each stored tensor that is one number.

    Raises:
        ReleaseError: a record is not what its digest says, is of other files, or a stored scale is
            not that of the record.
    """
    outputs = {}
    for name, step in manifest.steps.items():
        if step.digest.sha256 != step.annotations.sha256:
            raise ReleaseError(f"{step.name}: its record was changed since it was written.")
        outputs[name] = step.annotations.outputs
    calibration = f"{PROVENANCE}/{record.FILE}"
    if outputs.get("dress") != checkpoint:
        raise ReleaseError("step/dress: its record is of another checkpoint.")
    calibrated = outputs.get("calibrate", {})
    if calibrated.get(record.FILE) != manifest.results.get(calibration):
        raise ReleaseError(f"step/calibrate: its record is of another {record.FILE}.")
    for module, maximum in maxima.items():
        _require_scale(module, _value(module, maximum), scales)
    return f"{len(outputs)} steps, {len(maxima)} input scales"


def _require_scale(module: str, maximum: np.float32, stored: Mapping[str, bytes]) -> None:
    for suffix, scale in SCALES.items():
        name = f"{module}.{suffix}"
        if name in stored:
            if _value(name, stored[name]) != scale(maximum):
                raise ReleaseError(f"{name}: is not the scale of the calibration record.")
            return
    raise ReleaseError(f"{module}: is in the calibration record, but has no input scale.")


def _value(name: str, data: bytes) -> np.float32:
    if len(data) != 4:
        raise ReleaseError(f"{name}: has {len(data)} bytes where one number should be.")
    return np.float32(np.frombuffer(data, dtype="<f4")[0])
