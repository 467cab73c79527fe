"""Holds a release to what its steps recorded, and its input scales to its calibration record."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from forge.calibration import record
from forge.core.errors import ReleaseError
from forge.manifest.names import PROVENANCE
from forge.manifest.provenance import Manifest
from forge.tensors import tensorfile
from forge.tensors.small_floats import divisor, global_scale
from forge.tensors.tensorfile import Tensor

# Where each loader's format stores what becomes of an input maximum, and what that is.
SCALES: Mapping[str, Callable[[np.float32], np.float32]] = {
    "input_scale": global_scale,
    "input_global_scale": divisor,
}


def check(manifest: Manifest, folder: Path, checkpoint: Mapping[str, str]) -> str:
    """Compares records with outcomes.

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
    maxima = {t.name: t for t in tensorfile.read_header(folder / calibration)}
    stored = tensorfile.read_checkpoint(folder)
    for module, maximum in maxima.items():
        _require_scale(module, _value(maximum), stored)
    return f"{len(outputs)} steps, {len(maxima)} input scales"


def _require_scale(module: str, maximum: np.float32, stored: Mapping[str, Tensor]) -> None:
    for suffix, scale in SCALES.items():
        tensor = stored.get(f"{module}.{suffix}")
        if tensor is not None:
            if _value(tensor) != scale(maximum):
                raise ReleaseError(f"{tensor.name}: is not the scale of the calibration record.")
            return
    raise ReleaseError(f"{module}: is in the calibration record, but has no input scale.")


def _value(tensor: Tensor) -> np.float32:
    if tensor.nbytes != 4:
        raise ReleaseError(f"{tensor.name}: has {tensor.nbytes} bytes where one number should be.")
    return np.float32(np.frombuffer(tensor.read(), dtype="<f4")[0])
