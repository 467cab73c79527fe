"""What the machine can do at best: memory, disk, sha256."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import numpy as np

from forge.tensors import nvfp4
from forge.tensors.pagecache import ReadBehind, WriteBehind
from forge.tensors.small_floats import global_scale

PROBE_BYTES = 1 << 30
CHUNK = 16 << 20


def in_memory_rate() -> float:
    """Bytes of BF16 a second that the loops pack on all cores, from memory to memory."""
    rng = np.random.default_rng(0)
    weight = rng.integers(0, 0x7F00, (4096, 5120), dtype=np.uint16)
    scale_2 = global_scale(nvfp4.amax(weight, "noise"))
    nvfp4.pack(weight, scale_2)
    rounds = 16
    with ThreadPoolExecutor() as pool:
        started = time.perf_counter()
        list(pool.map(lambda _: nvfp4.pack(weight, scale_2), range(rounds)))
        return rounds * weight.nbytes / (time.perf_counter() - started)


def hash_rate() -> float:
    """Bytes a second of sha256 over all cores."""
    data = bytes(CHUNK)
    rounds = 64
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        started = time.perf_counter()
        list(pool.map(lambda _: sha256(data).digest(), range(rounds)))
        return rounds * len(data) / (time.perf_counter() - started)


def disk_rate(folder: Path) -> float:
    """Bytes a second that the disk takes and gives, written and read in turn, uncached."""
    path = folder / "probe"
    data = bytearray(os.urandom(CHUNK))
    started = time.perf_counter()
    with path.open("wb", buffering=0) as file:
        written = WriteBehind(file.fileno())
        for _ in range(PROBE_BYTES // CHUNK):
            file.write(data)
            written.passed(file.tell())
        written.finish()
    with path.open("rb", buffering=0) as file:
        read = ReadBehind(file.fileno())
        while file.readinto(data):
            read.passed(file.tell())
    seconds = time.perf_counter() - started
    path.unlink()
    return 2 * PROBE_BYTES / seconds


def flush(path: Path) -> None:
    """Waits until a file is on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def drop_from_cache(folder: Path) -> None:
    """Asks the kernel to forget the files' pages, so that reading them reads the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
