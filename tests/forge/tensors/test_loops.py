"""The compiled loops give the same bytes whatever instructions they were compiled to."""

import os
import platform
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from forge.tensors import loops, nvfp4, small_floats

# Numba compiles for the processor it finds; here also for older ones, whose registers are narrower.
PROCESSORS = {"x86_64": ["x86-64", "nehalem", "haswell"], "aarch64": ["generic", "cortex-a72"]}


def digest():
    """Over what each of the loops makes of random weights of every magnitude."""
    rng = np.random.default_rng(7)
    bits = rng.integers(0, 1 << 16, (257, 48), dtype=np.uint16)
    bits[bits & 0x7F80 == 0x7F80] = 0x8001
    bits[:128] = small_floats.bf16_bits(rng.standard_normal((128, 48), dtype=np.float32))
    found = sha256()
    for rows in (bits, bits[:128], small_floats.widen_bf16(bits[:128]).astype(np.float16)):
        scale = small_floats.global_scale(nvfp4.amax(rows, "w"))
        codes, scales = nvfp4.pack(rows, scale)
        values = nvfp4.dequantize(codes, scales, scale)
        for part in (scale, codes, scales, values):
            found.update(part.tobytes())
        if rows.dtype == np.uint16:
            with np.errstate(over="ignore"):
                sums = loops.squares(values, 1.0, small_floats.widen_bf16(rows))
            found.update(np.float64(sums).tobytes())
    return found.hexdigest()


NO_PLACE = """
from numba.core import caching
caching.CacheImpl._locator_classes = []
import numpy as np
from forge.tensors import loops
print(loops.largest_magnitude(np.array([2, 0x8003], dtype=np.uint16)))
"""


def test_no_place_for_what_is_compiled():
    """As where neither the checkout nor HOME can be written: each process compiles for itself."""
    done = subprocess.run(
        [sys.executable, "-c", NO_PLACE], capture_output=True, encoding="utf-8", check=True
    )
    assert done.stdout.strip() == "3"


@pytest.mark.parametrize("processor", PROCESSORS[platform.machine()])
def test_other_instructions_give_the_same_bytes(processor, tmp_path):
    """As does a reader's own processor, for which numba compiles anew."""
    built_for = {"NUMBA_CPU_NAME": processor, "NUMBA_CPU_FEATURES": "", "NUMBA_CACHE_DIR": tmp_path}
    script = "from test_loops import digest; print(digest())"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **{name: str(value) for name, value in built_for.items()}},
        cwd=Path(__file__).parent,
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    assert done.stdout.strip() == digest()


LOOP = """
import numpy as np
from forge.tensors import loops
print(loops.largest_magnitude(np.array([2, 0x8003], dtype=np.uint16)))
"""


@pytest.mark.parametrize("suffix", ["nbi", "nbc"])
@pytest.mark.parametrize("data", [b"", b"\x80\x04cut"])
def test_what_was_compiled_and_cannot_be_read(tmp_path, suffix, data):
    """As after a power failure: numba compiles again, and keeps that."""
    kept = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}

    def run():
        done = subprocess.run(
            [sys.executable, "-c", LOOP],
            capture_output=True,
            encoding="utf-8",
            env=kept,
            check=True,
        )
        return done.stdout

    assert run() == "3\n"
    (path,) = tmp_path.rglob(f"*.{suffix}")
    path.write_bytes(data)
    assert run() == "3\n"
    assert all(one.stat().st_size > 100 for one in tmp_path.rglob("*.nb*"))
