"""The machine that builds, and the container around it, if there is one."""

import json
import os
import platform
from pathlib import Path
from typing import Any

# How the runner tells a process in a container which image that is, in JSON.
CONTAINER = "HALLMARK_CONTAINER"
# What changes arithmetic, kernels or where inputs come from; none of it is a secret.
ENVIRONMENT = (
    "CUBLAS_WORKSPACE_CONFIG", "CUDA_VISIBLE_DEVICES", "HF_ENDPOINT", "HF_HUB_OFFLINE",
    "MKL_NUM_THREADS", "OMP_NUM_THREADS", "PYTHONHASHSEED", "SOURCE_DATE_EPOCH",
    "TORCH_CUDA_ARCH_LIST", "VLLM_NVFP4_GEMM_BACKEND",
)  # fmt: skip


def has_gpu() -> bool:
    """Whether an NVIDIA driver offers a device; asks the kernel, so no library is needed."""
    return Path("/dev/nvidiactl").exists() or Path("/dev/dxg").exists()


def container() -> dict[str, Any] | None:
    """What the runner says of the container that this process is in, or None on the host."""
    said = os.environ.get(CONTAINER)
    return json.loads(said) if said else None


def system() -> dict[str, str | None]:
    """What a step's result may depend on besides its code and distributions.

    The interpreter, the processor's family, and in the image what the system below the environments
    was made from; None on a host, where nothing pins it.
    """
    inside = container()
    labels = {} if inside is None else inside["image"]["labels"]
    return {
        "python": ".".join(platform.python_version_tuple()[:2]),
        "machine": platform.machine(),
        "base": labels.get("org.opencontainers.image.base.digest"),
        "snapshot": labels.get("hallmark.snapshot"),
    }


def machine() -> dict[str, Any]:
    """Facts about this machine that a rebuilder may want to compare."""
    return {
        "system": platform.system(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "gpu": has_gpu(),
        "container": container(),
        "environment": {name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
    }
