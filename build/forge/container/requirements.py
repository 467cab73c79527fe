"""What a build in the image needs of this machine, checked before any work.

1. A container engine that answers and that this user may use.
2. A GPU with a driver that is new enough for the image's CUDA, if the build or the image needs one.
3. Disk, memory and shared memory.

For most of them the remedy is `host`: the build without an image.
"""

import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import docker
from docker import DockerClient
from docker.errors import DockerException

from forge.container.answers import asking
from forge.container.image import Image
from forge.core import disk, image_labels, machine
from forge.core.errors import (
    DriverError,
    EnginePermissionError,
    NoEngineError,
    NoGpuError,
    SpaceError,
)
from forge.core.libraries import said
from forge.core.machine import Graphics

OLDEST_DRIVER = 580  # CUDA 13.0: https://docs.nvidia.com/cuda/cuda-toolkit-release-notes/
GIB = 1 << 30
# The 27B: 55.6 GB to fetch, 20.6 GB to write, and as much again while it is replaced. Estimated.
REAL_DISK, REHEARSAL_DISK = 100 * GIB, 2 * GIB
# The CUDA base and both environments, estimated; 7.2 GB were measured on Debian without CUDA.
IMAGE_DISK = 20 * GIB


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a container may take: memory and shared memory in bytes, time in seconds."""

    memory: int
    shared: int
    seconds: float


def engine() -> DockerClient:
    """A container engine of this machine: Docker's, or another's that DOCKER_HOST names.

    Raises:
        NoEngineError: nobody answers.
        EnginePermissionError: this user may not ask.
    """
    where = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    with asking(f"{where}: is no container engine"):
        try:
            client = docker.from_env()
            client.ping()
        except DockerException as error:
            causes = list(_causes(error))
            if any(isinstance(cause, PermissionError) for cause in causes):
                raise EnginePermissionError(
                    f"{where}: this user (uid {os.getuid()}) may not use the container engine. "
                    "Join its group and log in again (sudo usermod -aG docker $USER), or use a "
                    "rootless engine through DOCKER_HOST.",
                    remedy="host",
                ) from error
            # The first that is of the socket, under whatever the library made of it.
            cause = next((one for one in reversed(causes) if isinstance(one, OSError)), error)
            raise NoEngineError(
                f"{where}: no container engine answers ({said(cause)}). Start it (systemctl start "
                "docker), or name the socket of another in DOCKER_HOST (podman system service).",
                remedy="host",
            ) from error
    return client


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what led to it, the first cause last."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def graphics(image: Image, *, rehearsal: bool) -> Graphics | None:
    """The GPUs that a build in this image may use; None where it needs and has none.

    Raises:
        NoGpuError: it needs one.
        DriverError: the driver is too old, or does not answer.
    """
    for_gpu = image.labels[image_labels.VERIFY] == image_labels.ENGINES[0]
    if not machine.has_gpu():
        if not rehearsal or for_gpu:
            what = "this image is made for a machine with one" if for_gpu else "a real build does"
            raise NoGpuError(
                f"there is no NVIDIA GPU here (no /dev/nvidiactl), and {what}.",
                remedy="no-gpu",
            )
        return None
    if not for_gpu:
        raise NoGpuError(
            "this machine has a GPU, but its image was made while it had none, so the engine in "
            "it cannot use one.",
            remedy="make-image",
        )
    return supported(_nvidia_smi())


def _nvidia_smi() -> str:
    query = ["nvidia-smi", "--query-gpu=driver_version,name", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, encoding="utf-8", check=True).stdout  # noqa: S603
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stdout", None) or error
        raise DriverError(
            f"nvidia-smi does not answer: {str(said).strip()}. Install or repair the NVIDIA "
            f"driver, {OLDEST_DRIVER} or later.",
            remedy="host",
        ) from error


def supported(listing: str) -> Graphics:
    """The GPUs in a listing, a line each: driver's version, comma, name.

    Raises:
        DriverError: the driver is older than the image's CUDA, or the listing cannot be read.
    """
    lines = [line.split(", ", 1) for line in listing.strip().splitlines()]
    if not lines or any(len(line) != 2 or not re.match(r"\d+\.", line[0]) for line in lines):
        raise DriverError(
            f"nvidia-smi lists no GPU but says {listing.strip()!r:.200}. Repair the driver.",
            remedy="host",
        )
    driver = lines[0][0]
    if int(driver.partition(".")[0]) < OLDEST_DRIVER:
        raise DriverError(
            f"the NVIDIA driver is {driver}, and CUDA 13 needs {OLDEST_DRIVER} or later. Update "
            "the driver.",
            remedy="host",
        )
    return Graphics(driver=driver, names=tuple(name for _, name in lines))


def space(store: Path, limits: Limits, *, rehearsal: bool) -> None:
    """Holds this machine to what a build takes.

    Raises:
        SpaceError: too little disk at the store, memory, or shared memory.
    """
    needed = REHEARSAL_DISK if rehearsal else REAL_DISK - _fetched(store)
    disk.require(store, needed, "the build")
    total, free = _memory("MemTotal"), _memory("MemAvailable")
    if limits.memory > total:
        raise SpaceError(
            f"the container may take {limits.memory / GIB:.1f} GiB of memory, and this machine "
            f"has {total / GIB:.1f}.",
            remedy="less-memory",
        )
    if limits.shared > min(free, limits.memory):
        raise SpaceError(
            f"the container gets {limits.shared / GIB:.1f} GiB of shared memory, but "
            f"{min(free, limits.memory) / GIB:.1f} GiB of memory are there for it.",
            remedy="less-shared",
        )


def _fetched(store: Path) -> int:
    """The bytes of earlier fetches, which are not fetched again."""
    files = (path for path in (store / "hub").rglob("*") if not path.is_symlink())
    return sum(path.stat().st_size for path in files if path.is_file())


def memory() -> int:
    """The memory of this machine in bytes."""
    return _memory("MemTotal")


def _memory(key: str) -> int:
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))
