"""Follows a container from its creation to its end, and removes it whatever happens.

Its output is passed on, its time is limited, and a signal that ends this process ends it too.
Standard input stays open meanwhile: its end tells :mod:`forge.core.supervisor` that this process
is gone.
"""

import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import Any

from docker import DockerClient
from docker.errors import APIError, DockerException, NotFound
from docker.utils.socket import STDERR, frames_iter
from requests import RequestException

from forge.container.requirements import GIB, Limits
from forge.core import signals
from forge.core.errors import ContainerError, NoGpuError
from forge.core.libraries import library

_KILLED = 128 + signal.SIGKILL
_GRACE = 60  # seconds between the last word of a container and its exit code
Ending = SimpleQueue[int | Exception]  # an exit code, or why there is none


def to_end(client: DockerClient, name: str, create: Callable[[], None], limits: Limits) -> int:
    """Creates and starts the container `name`, waits for its end and removes it.

    Returns:
        The exit code of its command.

    Raises:
        ContainerError: it was ended at a limit or from outside, or the engine failed.
        NoGpuError: the engine cannot hand the GPUs on.
    """
    with _engine_that_answers():
        try:
            create()
            # Asked for before the start, since a removed container has no exit code any more.
            ended = _ending(client, name)
            with _attached(client, name) as output:
                client.api.start(name)
                with _limited(client, name, limits.seconds) as late:
                    _pass_on(frames_iter(output, tty=False))
                    code = _exit_code(ended)
        except APIError as error:
            raise _explained(error) from error
        finally:
            with signals.held():
                remove(client, name)
    if late.is_set():
        raise ContainerError(
            f"the run was ended at its limit of {limits.seconds / 3600:g} hours; finished steps "
            "are kept.",
            remedy="more-hours",
        )
    if code == _KILLED:
        raise ContainerError(
            "the run was killed from outside, most likely at its limit of "
            f"{limits.memory / GIB:.1f} GiB of memory; finished steps are kept.",
            remedy="more-memory",
        )
    return code


def remove(client: DockerClient, name: str) -> None:
    """Removes a container, running or not, and returns when it is gone; it may be gone already."""
    with suppress(NotFound):
        try:
            client.api.remove_container(name, force=True)
        except APIError as error:
            if "in progress" not in str(error):
                raise
        client.api.wait(name, timeout=60, condition="removed")


@contextmanager
def _attached(client: DockerClient, name: str) -> Iterator[Any]:
    """The container's streams: what it says, and its standard input, at whose end it ends."""
    streams = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
    output = client.api.attach_socket(name, params=streams)
    try:
        yield output
    finally:
        output._response.close()  # with the stream; the library leaves it to the collector


def _ending(client: DockerClient, name: str) -> Ending:
    """The exit code to come; nobody waits for the thread, for an engine may never answer."""
    ended: Ending = SimpleQueue()

    def wait() -> None:
        try:
            code = client.api.wait(name, timeout=None, condition="next-exit")["StatusCode"]
            ended.put(int(code))
        except (DockerException, RequestException) as error:
            ended.put(error)

    threading.Thread(target=wait, daemon=True).start()
    return ended


def _exit_code(ended: Ending) -> int:
    try:
        code = ended.get(timeout=_GRACE)
    except Empty as error:
        raise TimeoutError("the container ended, its exit code did not come") from error
    if isinstance(code, Exception):
        raise code
    return code


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
def _engine_that_answers() -> Iterator[None]:
    what = "the container engine did not answer as one while a container ran"
    with library("docker", ContainerError, what, remedy="host"):
        try:
            yield
        except (RequestException, TimeoutError) as error:
            raise ContainerError(
                "the container engine stopped answering while a container ran, which ends with "
                "it; finished steps are kept. Restart the engine and run again.",
                remedy="host",
            ) from error


def _explained(error: APIError) -> Exception:
    said = error.explanation or str(error)
    if "gpu" in said.lower() or "nvidia" in said.lower():
        return NoGpuError(
            f"the container engine cannot hand on the GPU: {said}. Install the NVIDIA Container "
            "Toolkit and restart the engine.",
            remedy="host",
        )
    return ContainerError(f"the container engine refused: {said}. Mend that.", remedy="host")
