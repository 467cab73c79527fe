"""The engine under test: vLLM in a process of its own, served with the flags of the published card.

Every process started here leads a process group that is stopped whole, whatever happens to the
caller; its output is kept in a log, and an error that concerns it carries the last lines.
"""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from assay.flags import Args, Device, serve_command
from forge.errors import EngineError

STARTUP_SECONDS = 1800.0  # 27B from a cold disk, with torch.compile and CUDA graphs
REQUEST_SECONDS = 600.0
HEALTH_SECONDS = 5.0
STOP_SECONDS = 20.0
LOG_LINES = 40


class Sample(NamedTuple):
    """One value of `/metrics`."""

    name: str
    labels: Mapping[str, str]
    value: float


def device() -> Device:
    """The kind of device that the installed vLLM runs on here.

    Raises:
        EngineError: vLLM found neither a CUDA device nor a CPU build of itself.
    """
    from vllm.platforms import current_platform

    if current_platform.is_cuda():
        return "cuda"
    if current_platform.is_cpu():
        return "cpu"
    raise EngineError(
        f"vLLM runs on {current_platform.device_name or 'no device'!r} here; the assay knows CUDA "
        "GPUs and CPUs. Is the build of vLLM in this environment made for this machine?"
    )


def environment() -> dict[str, str]:
    """This process's environment, with the engine kept off the network and small on a CPU."""
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    silent = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    # GiB, read on a CPU only; and threads that wait for others sleep: where cores are shared,
    # spinning made the same work up to six times slower.
    small = {"VLLM_CPU_KVCACHE_SPACE": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    return {**os.environ, **offline, **silent, **small}


@contextmanager
def process(
    command: Sequence[str], *, log: Path, env: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a command in its own process group, its output in `log`; stops the group at the end."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as sink:
        child = subprocess.Popen(  # noqa: S603 (the command is made in this package)
            command,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            env=dict(env),
            start_new_session=True,
        )
        try:
            yield child
        finally:
            _stop(child)


class Client:
    """Speaks to one running server; every failure of it is an EngineError with its last words."""

    def __init__(self, url: str, *, model: str, log: Path) -> None:
        self._model = model
        self._log = log
        # trust_env: a proxy for the outside must not be asked for 127.0.0.1.
        self._http = httpx.Client(base_url=url, timeout=REQUEST_SECONDS, trust_env=False)

    def chat(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> dict[str, Any]:
        """`/v1/chat/completions`, greedy; the whole answer."""
        return self._ask("/v1/chat/completions", {"messages": list(messages), **options})

    def completion(self, prompt: str | Sequence[int], **options: Any) -> dict[str, Any]:
        """`/v1/completions`, greedy; the whole answer."""
        return self._ask("/v1/completions", {"prompt": prompt, **options})

    def metrics(self) -> list[Sample]:
        """Every sample of `/metrics`."""
        return parse_metrics(self._send("GET", "/metrics").text)

    def healthy(self) -> bool:
        """Whether `/health` answers with success; a server that does not listen yet does not."""
        try:
            healthy: bool = self._http.get("/health", timeout=HEALTH_SECONDS).is_success
        except httpx.TransportError:
            return False
        return healthy

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def _ask(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        request = {"model": self._model, "temperature": 0, **body}
        answer: dict[str, Any] = self._send("POST", path, json=request).json()
        return answer

    def _send(self, method: str, path: str, **content: Any) -> httpx.Response:
        try:
            response = self._http.request(method, path, **content)
        except httpx.TransportError as error:
            raise EngineError(
                f"{method} {path}: the server did not answer ({error!r}).\n{tail(self._log)}"
            ) from error
        if not response.is_success:
            raise EngineError(
                f"{method} {path}: the server answered {response.status_code}: "
                f"{response.text[:500]}\n{tail(self._log)}"
            )
        return response


@contextmanager
def serve(
    checkpoint: Path,
    args: Args,
    *,
    speculative_tokens: int | None,
    log: Path,
    timeout_s: float = STARTUP_SECONDS,
) -> Iterator[Client]:
    """Runs vLLM's real server over a checkpoint until the block ends.

    Args:
        checkpoint: the folder to serve.
        args: flags of `vllm serve` without dashes, already adapted to this machine.
        speculative_tokens: how many tokens the MTP head drafts; None serves without it.
        log: where the server's output is kept.
        timeout_s: the longest start that is waited for.

    Raises:
        EngineError: the server died or was not healthy in time; with the end of its log.
    """
    port = _free_port()
    command = serve_command(checkpoint, args, port=port, speculative_tokens=speculative_tokens)
    with process(command, log=log, env=environment()) as server:
        client = Client(f"http://127.0.0.1:{port}", model=str(checkpoint), log=log)
        try:
            failure = _await_health(client, server, timeout_s)
            if failure is not None:
                raise EngineError(f"vLLM {failure} on {checkpoint}.\n{tail(log)}")
            yield client
        finally:
            client.close()


def _await_health(client: Client, server: subprocess.Popen[bytes], timeout_s: float) -> str | None:
    """Waits until the server is healthy; otherwise says what happened to it."""
    deadline = time.monotonic() + timeout_s
    while not client.healthy():
        if server.poll() is not None:
            return f"ended with exit code {server.returncode} while starting"
        if time.monotonic() > deadline:
            return f"was not healthy within {timeout_s:.0f} s"
        time.sleep(0.25)
    return None


def parse_metrics(text: str) -> list[Sample]:
    """The samples of a Prometheus exposition."""
    from prometheus_client.parser import text_string_to_metric_families

    return [
        Sample(sample.name, sample.labels, sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]


def tail(log: Path) -> str:
    """The last lines of a log, with its path."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:]
    return "\n".join([f"The last lines of {log}:", *lines])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _stop(child: subprocess.Popen[bytes]) -> None:
    """Ends a process group: asked first, killed when it does not go; a second Ctrl-C kills too."""
    try:
        _signal(child, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            child.wait(STOP_SECONDS)
    finally:
        _signal(child, signal.SIGKILL)  # also what outlived the leader of the group
        child.wait()


def _signal(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(child.pid, number)
