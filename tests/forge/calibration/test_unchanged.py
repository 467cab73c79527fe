"""The base is hashed again after the forward passes, since transformers holds it to no digest."""

import os

import pytest

from forge.calibration import calibrate
from forge.core.errors import CalibrationError


def test_base_as_it_was_fetched(built):
    calibrate.require_unchanged(built.inputs, built.results["fetch"].digests)


@pytest.mark.parametrize("name", ["model-00002-of-00002.safetensors", "config.json"])
def test_bit_that_flipped_meanwhile(built, name):
    """Size and time of the file are as they were; weights and configs alike."""
    path = built.inputs / "base" / name
    status = path.stat()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(CalibrationError, match=rf"{name}: has sha256 .* after the forward passes"):
        calibrate.require_unchanged(built.inputs, built.results["fetch"].digests)
