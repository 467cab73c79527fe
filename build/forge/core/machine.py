"""The machine that builds, and the container around it, if there is one."""

import os
import platform
from pathlib import Path

from forge.core import image_labels
from forge.core.model import Model, Sha256

# How the runner tells a process in a container which image that is, in JSON.
CONTAINER = "HALLMARK_CONTAINER"
# What changes arithmetic, kernels or where inputs come from; no secret, once `without_user`.
ENVIRONMENT = (
    "CUBLAS_WORKSPACE_CONFIG", "CUDA_VISIBLE_DEVICES", "HF_ENDPOINT", "HF_HUB_OFFLINE",
    "MKL_NUM_THREADS", "OMP_NUM_THREADS", "PYTHONHASHSEED", "SOURCE_DATE_EPOCH",
    "TORCH_CUDA_ARCH_LIST", "VLLM_NVFP4_GEMM_BACKEND",
)  # fmt: skip


class ContainerImage(Model):
    """An image: its id, the digest of its layers, its labels.

    The id also covers when it was made; the layers are the same however often it is made.
    """

    id: str
    layers: Sha256
    labels: dict[str, str]


class ContainerEngine(Model):
    """What runs containers."""

    name: str
    version: str


class Graphics(Model):
    """The GPUs by name, and their driver's version."""

    driver: str
    names: tuple[str, ...]


class Container(Model):
    """A container: what it was made from, what runs it, and the GPUs that it was given."""

    image: ContainerImage
    engine: ContainerEngine
    graphics: Graphics | None


class Machine(Model):
    """A machine, as far as a rebuilder may want to compare it.

    `environment` has the variables that change arithmetic, kernels or where inputs come from.
    """

    system: str
    kernel: str
    machine: str
    python: str
    cores: int | None
    gpu: bool
    container: Container | None
    environment: dict[str, str]


def has_gpu() -> bool:
    """Whether an NVIDIA driver offers a device; asks the kernel, so no library is needed."""
    return Path("/dev/nvidiactl").exists() or Path("/dev/dxg").exists()


def container() -> Container | None:
    """What the runner says of the container that this process is in, or None on the host."""
    said = os.environ.get(CONTAINER)
    return Container.parse(said.encode()) if said else None


def system() -> dict[str, str | None]:
    """What a step's result may depend on besides its code and distributions.

    The interpreter, the processor's family, and in the image what the system below the environments
    was made from; None on a host, where nothing pins it.
    """
    inside = container()
    labels = {} if inside is None else inside.image.labels
    return {
        "python": ".".join(platform.python_version_tuple()[:2]),
        "machine": platform.machine(),
        "base": labels.get(image_labels.BASE_DIGEST),
        "snapshot": labels.get(image_labels.SNAPSHOT),
    }


def machine() -> Machine:
    """Facts about this machine."""
    return Machine(
        system=platform.system(),
        kernel=platform.release(),
        machine=platform.machine(),
        python=platform.python_version(),
        cores=os.cpu_count(),
        gpu=has_gpu(),
        container=container(),
        environment={
            name: without_user(os.environ[name]) for name in ENVIRONMENT if name in os.environ
        },
    )


def without_user(value: str) -> str:
    """A URL without the user and password that it may hold; anything else as it is."""
    scheme, separator, rest = value.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}"
