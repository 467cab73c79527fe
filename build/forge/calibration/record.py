"""The calibration record: the only thing that the forward passes leave.

A safetensors file with one float32 scalar a quantized linear, its largest input magnitude, named
as the module; linears that share their input carry the same value. One metadata key says where it
comes from: engine, versions, device, and each sample with its set, its rows (first and last,
counted from 0), its number of tokens and their digest.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from forge.core import canonical
from forge.core.errors import CalibrationError, TensorFileError
from forge.tensors import tensorfile
from forge.tensors.small_floats import SMALLEST_NORMAL, global_scale
from forge.tensors.tensorfile import Tensor

FILE = "calibration.safetensors"


def write(path: Path, maxima: Mapping[str, float], origin: Mapping[str, Any]) -> None:
    """Writes a record; the bytes depend on `maxima` and `origin` alone."""
    specs = [tensorfile.Spec(name=name, dtype="F32", shape=()) for name in sorted(maxima)]
    values = np.array([maxima[spec.name] for spec in specs], dtype="<f4")
    metadata = {"origin": canonical.dumps(origin)}
    path.write_bytes(tensorfile.header_bytes(specs, metadata) + values.tobytes())


def read(path: Path, modules: Sequence[str]) -> dict[str, np.float32]:
    """The input maxima of `modules`, by name.

    Raises:
        CalibrationError: the record is for other modules, or a value is none that
            :func:`check` takes.
    """
    return parse(path, tensorfile.read_header(path), Tensor.read, modules)


def parse(
    path: Path,
    found: Iterable[Tensor],
    value: Callable[[Tensor], bytes],
    modules: Sequence[str],
) -> dict[str, np.float32]:
    """As :func:`read`, of the tensors of a record and what gives the bytes of one."""
    tensors = {tensor.name: tensor for tensor in found}
    if tensors.keys() != set(modules):
        missing = sorted(set(modules) - tensors.keys())
        extra = sorted(tensors.keys() - set(modules))
        raise CalibrationError(
            f"{path}: is a record of another model or recipe: {len(missing)} module(s) missing, "
            f"{len(extra)} unknown, first {(missing or extra)[0]!r}. Calibrate again."
        )
    maxima = {}
    for name, tensor in tensors.items():
        if (tensor.dtype, tensor.shape) != ("F32", ()):
            raise CalibrationError(
                f"{path}: {name!r} is {tensor.dtype} {list(tensor.shape)}, not one F32 value."
            )
        maxima[name] = np.frombuffer(value(tensor), dtype="<f4")[0]
        check(name, float(maxima[name]))
    return maxima


def origin(path: Path) -> dict[str, Any]:
    """Where a record comes from, as its calibration wrote it.

    Raises:
        TensorFileError: the file is too short for the header that it claims.
    """
    return parse_origin(path, path.read_bytes())


def parse_origin(path: Path, data: bytes) -> dict[str, Any]:
    """As :func:`origin`, of the bytes of a record.

    Raises:
        TensorFileError: it is too short for the header that it claims, or says nothing.
    """
    first = tensorfile.LENGTH_BYTES
    length = tensorfile.header_length(path, len(data), data[:first])
    try:
        header = canonical.loads(data[first : first + length])
        return dict(canonical.loads(header["__metadata__"]["origin"].encode()))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise TensorFileError(f"{path}: does not say where it comes from: {error}.") from error


def check(module: str, value: float) -> None:
    """Refuses a maximum that no input can have had, or that gives no scale.

    Zero is one: the linear was reached by zeros alone, and its scale is defined as 1.

    Raises:
        CalibrationError: naming the module and the value.
    """
    if not math.isfinite(value) or value < 0:
        raise CalibrationError(
            f"the input maximum of {module!r} is {value}, so the model computes nonsense. Check "
            "the calibration samples and the base."
        )
    if (scale := global_scale(value)) < SMALLEST_NORMAL:
        raise CalibrationError(
            f"the input maximum of {module!r} is {value}, of which the input scale would be "
            f"{scale}, too small for engines. Check the calibration samples and the base."
        )
