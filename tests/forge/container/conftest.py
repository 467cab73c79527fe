"""A real engine, the image of this tree, and a sandbox in it. Without them, these tests fail."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import docker
import pytest

from forge.container import image, requirements
from forge.container.requirements import GIB, Limits
from forge.container.sandbox import Sandbox, caller


@pytest.fixture(scope="session")
def client() -> docker.DockerClient:
    return requirements.engine()


@pytest.fixture(scope="session")
def found(client: docker.DockerClient) -> image.Image:
    return image.find(client)


@pytest.fixture(scope="session")
def left(client: docker.DockerClient) -> Callable[[Path], list[Any]]:
    """The containers that runs on a store have left behind, or have still."""
    return lambda store: client.containers.list(
        all=True, ignore_removed=True, filters={"label": f"hallmark.run={store}"}
    )


@pytest.fixture
def box(client: docker.DockerClient, found: image.Image, tmp_path: Path) -> Sandbox:
    for name in ("store", "store/fetch", "scratch", "base"):
        (tmp_path / name).mkdir()
    (tmp_path / "store/fetch/inputs.json").write_text("{}", encoding="utf-8")
    (tmp_path / "base/weights").write_text("x", encoding="utf-8")
    return Sandbox(
        client=client,
        image=found,
        store=tmp_path / "store",
        inputs=frozenset({tmp_path / "store/fetch", tmp_path / "base"}),
        scratch=tmp_path / "scratch",
        limits=Limits(memory=1 * GIB, shared=GIB // 4, seconds=120),
        user=caller(client),
    )
