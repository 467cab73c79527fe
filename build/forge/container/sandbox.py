"""Runs a command in the image, with access to nothing but what it is given.

It has no network, a read-only root, no capabilities, the caller's user, inputs that cannot be
written, one folder that can, and limits. The container is removed however the run ends. If this
process is killed, the container's first process (:mod:`forge.core.supervisor`) ends with it, and
the engine removes the container.
"""

import os
import shutil
import sys
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docker import DockerClient
from docker.types import DeviceRequest, Mount

from forge.container import lifecycle
from forge.container.answers import asking, field, info
from forge.container.image import Image
from forge.container.requirements import Limits
from forge.core import canonical, machine
from forge.core.commandline import DEBUG, INTERFACE
from forge.core.errors import NoGpuError
from forge.core.machine import Container, ContainerEngine, Graphics

PYTHON = "/hallmark/.nox/{environment}/bin/python"
_LABEL = "hallmark.run"
# What the host decides about kernels goes into the container; the rest of ENVIRONMENT is about the
# hub, which is out of reach, or about devices, which are chosen outside.
_NOT_HANDED_ON = ("CUDA_VISIBLE_DEVICES", "HF_ENDPOINT", "HF_HUB_OFFLINE")


@dataclass(frozen=True, kw_only=True)
class Sandbox:
    """All that decides what commands in the image see and may do.

    `store` can be written and lies in the container where it lies here; so do `inputs`, which
    cannot be written, even inside the store. `scratch` is its /tmp. What is written belongs to
    `user`, a uid and a gid.
    """

    client: DockerClient
    image: Image
    store: Path
    inputs: frozenset[Path]
    scratch: Path
    limits: Limits
    user: str
    graphics: Graphics | None = None

    def run(self, command: Sequence[str]) -> int:
        """Runs a command to its end, passing on what it says; returns its exit code.

        Raises:
            ContainerError: it was ended at a limit, or from outside.
            NoGpuError: the engine cannot hand the GPUs on.
        """
        name = f"hallmark-{uuid.uuid4().hex[:12]}"
        return lifecycle.to_end(self.client, name, lambda: self._create(name, command), self.limits)

    def require_graphics(self) -> None:
        """Makes sure that the container can use the GPUs of this machine, if it needs them.

        Raises:
            NoGpuError: the engine cannot hand them on, or does not, as Podman 4 for one.
        """
        look = "from forge.core import machine; raise SystemExit(not machine.has_gpu())"
        python = PYTHON.format(environment="build")
        if self.graphics is not None and self.run([python, "-c", look]):
            raise NoGpuError(
                "the container engine cannot hand on the GPU: a container that asked for it has "
                "none. Use Docker with the NVIDIA Container Toolkit.",
                remedy="host",
            )

    def facts(self) -> Container:
        """What a manifest says of the container: image, engine, GPUs and their driver."""
        with asking("the container engine does not tell its version"):
            version = self.client.version()
        engines = [field(part, "Name") for part in version.get("Components") or ()]
        return Container(
            image=self.image.facts(),
            engine=ContainerEngine(
                name=engines[0] if engines else "unknown", version=field(version, "Version")
            ),
            graphics=self.graphics,
        )

    def _create(self, name: str, command: Sequence[str]) -> None:
        api, limits = self.client.api, self.limits
        supervisor = [PYTHON.format(environment="build"), "-m", "forge.core.supervisor"]
        api.create_container(
            image=self.image.id,
            name=name,
            command=[*supervisor, *command],
            stdin_open=True,
            user=self.user,
            environment=self._environment(),
            labels={_LABEL: str(self.store)},
            host_config=api.create_host_config(
                network_mode="none",
                read_only=True,
                cap_drop=["ALL"],
                security_opt=["no-new-privileges", "label=disable"],
                mounts=self._mounts(),
                mem_limit=limits.memory,
                memswap_limit=limits.memory,
                shm_size=limits.shared,
                device_requests=self._devices(),
                auto_remove=True,
            ),
        )

    def _environment(self) -> dict[str, str]:
        handed = (name for name in machine.ENVIRONMENT if name not in _NOT_HANDED_ON)
        names = (INTERFACE, DEBUG, *handed)
        given = {name: os.environ[name] for name in names if name in os.environ}
        if sys.stderr.isatty():
            # The container has no terminal: through one, its standard input would not end with us.
            # These make rich draw its bars for ours.
            columns = str(shutil.get_terminal_size().columns)
            given |= {"TTY_COMPATIBLE": "1", "TTY_INTERACTIVE": "1", "COLUMNS": columns}
        return {**given, machine.CONTAINER: canonical.dumps(self.facts().as_json())}

    def _mounts(self) -> list[Mount]:
        def bind(source: Path, target: str, *, read_only: bool) -> Mount:
            return Mount(target, str(source), type="bind", read_only=read_only)

        return [
            bind(self.store, str(self.store), read_only=False),
            bind(self.scratch, "/tmp", read_only=False),  # noqa: S108 - the container's own
            *(bind(path, str(path), read_only=True) for path in sorted(self.inputs)),
        ]

    def _devices(self) -> list[DeviceRequest]:
        if self.graphics is None:
            return []
        chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
        which: Mapping[str, Any] = {"device_ids": chosen.split(",")} if chosen else {"count": -1}
        return [DeviceRequest(capabilities=[["gpu"]], **which)]


def sweep(client: DockerClient, store: Path) -> None:
    """Removes what runs on this store left behind when the engine itself failed."""
    with asking("the container engine cannot be asked for what earlier runs left"):
        here = {"label": f"{_LABEL}={store}"}
        # One that is listed may be gone when it is asked about.
        for old in client.containers.list(all=True, ignore_removed=True, filters=here):
            lifecycle.remove(client, old.id)


def caller(client: DockerClient) -> str:
    """The user that the caller is inside: himself, or root in a rootless engine's containers."""
    options = info(client).get("SecurityOptions") or ()
    rootless = any("rootless" in option for option in options)
    return "0:0" if rootless else f"{os.getuid()}:{os.getgid()}"
