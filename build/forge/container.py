"""Runs a command in the image, shut off from all but what it was given.

No network, a read-only root, no capability, the caller's user, inputs that cannot be written, one
folder that can, and limits. The container is removed however the run ends; if this process is
killed outright, the engine removes it, since its first process (:mod:`forge.leash`) ends with ours.
"""

import json
import os
import queue
import shutil
import signal
import sys
import threading
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from docker import DockerClient
from docker.errors import APIError, DockerException, NotFound
from docker.types import DeviceRequest, Mount
from docker.utils.socket import STDERR, frames_iter
from requests import RequestException

from forge import identity
from forge.errors import ContainerError, NoGpuError
from forge.image import Image
from forge.preflight import GIB, HOST, Graphics, Limits

PYTHON = "/hallmark/.nox/{environment}/bin/python"
_LABEL = "hallmark.run"
_KILLED = 128 + signal.SIGKILL
_GRACE = 60  # seconds between the last word of a container and its exit code
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
        api = self.client.api
        with _signals_as_exceptions(), _engine_that_answers():
            try:
                self._create(name, command)
                # Asked for before the start, since a removed container has no exit code any more.
                ended = _ending(self.client, name)
                with _attached(self.client, name) as output:
                    api.start(name)
                    with _limited(self.client, name, self.limits.seconds) as late:
                        _pass_on(frames_iter(output, tty=False))
                        code = ended.get(timeout=_GRACE)
            except APIError as error:
                raise _explained(error) from error
            finally:
                remove(self.client, name)
        if late.is_set():
            raise ContainerError(
                f"the run was ended at its limit of {self.limits.seconds / 3600:g} hours; finished "
                "steps are kept. Run again to go on, with HOURS=<n> for more."
            )
        if code == _KILLED:
            raise ContainerError(
                "the run was killed from outside, most likely at its limit of "
                f"{self.limits.memory / GIB:.1f} GiB of memory; finished steps are kept. Run again "
                f"with MEMORY=<GiB> for more, {HOST}."
            )
        return code

    def require_graphics(self) -> None:
        """Makes sure that the GPUs of this machine are there inside, if they are to be used.

        Raises:
            NoGpuError: the engine cannot hand them on, or does not, as Podman 4 for one.
        """
        look = "from forge import identity; raise SystemExit(not identity.has_gpu())"
        python = PYTHON.format(environment="build")
        if self.graphics is not None and self.run([python, "-c", look]):
            raise NoGpuError(
                "the container engine cannot hand on the GPU: a container that asked for it has "
                f"none. Use Docker with the NVIDIA Container Toolkit, {HOST}."
            )

    def facts(self) -> dict[str, Any]:
        """What a manifest says of the container: image, engine, GPUs and their driver."""
        version = self.client.version()
        engines = [part["Name"] for part in version.get("Components", [])]
        return {
            "image": self.image.facts(),
            "engine": {"name": engines[0] if engines else "unknown", "version": version["Version"]},
            "graphics": None if self.graphics is None else asdict(self.graphics),
        }

    def _create(self, name: str, command: Sequence[str]) -> None:
        api, limits = self.client.api, self.limits
        leash = [PYTHON.format(environment="build"), "-m", "forge.leash"]
        api.create_container(
            image=self.image.id,
            name=name,
            command=[*leash, *command],
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
        handed = (name for name in identity.ENVIRONMENT if name not in _NOT_HANDED_ON)
        given = {name: os.environ[name] for name in handed if name in os.environ}
        if sys.stderr.isatty():
            # There is no terminal in the container, for a leash cannot be held through one; these
            # make rich draw its bars for ours.
            columns = str(shutil.get_terminal_size().columns)
            given |= {"TTY_COMPATIBLE": "1", "TTY_INTERACTIVE": "1", "COLUMNS": columns}
        return {**given, identity.CONTAINER: json.dumps(self.facts(), sort_keys=True)}

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


def remove(client: DockerClient, name: str) -> None:
    """Removes a container, running or not, and returns when it is gone; it may be gone already."""
    with suppress(NotFound):
        try:
            client.api.remove_container(name, force=True)
        except APIError as error:
            if "in progress" not in str(error):
                raise
        client.api.wait(name, timeout=60, condition="removed")


def sweep(client: DockerClient, store: Path) -> None:
    """Removes what runs on this store left behind when the engine itself failed."""
    for old in client.containers.list(all=True, filters={"label": f"{_LABEL}={store}"}):
        remove(client, old.id)


@contextmanager
def _attached(client: DockerClient, name: str) -> Iterator[Any]:
    """The container's streams: what it says, and our end of its leash."""
    streams = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
    output = client.api.attach_socket(name, params=streams)
    try:
        yield output
    finally:
        output._response.close()  # with the stream; the library leaves it to the collector


def _ending(client: DockerClient, name: str) -> queue.Queue[int]:
    """Where the exit code will be; nobody waits for the thread, for an engine may never answer."""
    ended: queue.Queue[int] = queue.Queue()

    def wait() -> None:
        with suppress(DockerException, RequestException):  # then there is no code to put
            ended.put(int(client.api.wait(name, timeout=None, condition="next-exit")["StatusCode"]))

    threading.Thread(target=wait, daemon=True).start()
    return ended


def caller(client: DockerClient) -> str:
    """The user that the caller is inside: himself, or root in a rootless engine's containers."""
    options = client.info().get("SecurityOptions") or []
    rootless = any("rootless" in option for option in options)
    return "0:0" if rootless else f"{os.getuid()}:{os.getgid()}"


def _pass_on(frames: Iterable[tuple[int, bytes]]) -> None:
    for stream, data in frames:
        output = sys.stderr if stream == STDERR else sys.stdout
        output.buffer.write(data)
        output.flush()


@contextmanager
def _limited(client: DockerClient, name: str, seconds: float) -> Iterator[threading.Event]:
    """Removes the container when the time is over; what is yielded tells whether it was."""
    late = threading.Event()

    def end() -> None:
        late.set()
        remove(client, name)

    timer = threading.Timer(seconds, end)
    timer.start()
    try:
        yield late
    finally:
        timer.cancel()


@contextmanager
def _signals_as_exceptions() -> Iterator[None]:
    """Lets a polite signal end this process the way Ctrl-C does, so that it cleans up."""

    def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - signal's face
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _engine_that_answers() -> Iterator[None]:
    try:
        yield
    except (RequestException, queue.Empty) as error:
        raise ContainerError(
            "the container engine stopped answering while a container ran, which ends with it; "
            f"finished steps are kept. Restart the engine and run again, {HOST}."
        ) from error


def _explained(error: APIError) -> Exception:
    said = error.explanation or str(error)
    if "gpu" in said.lower() or "nvidia" in said.lower():
        return NoGpuError(
            f"the container engine cannot hand on the GPU: {said}. Install the NVIDIA Container "
            f"Toolkit and restart the engine, {HOST}."
        )
    return ContainerError(f"the container engine refused: {said}. Mend that, {HOST}.")
