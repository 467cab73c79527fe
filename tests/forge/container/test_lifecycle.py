"""How the end of a container is heard of, without a container."""

import socket
from queue import SimpleQueue

import pytest
from docker import DockerClient
from requests import ConnectionError as NoConnection

from forge.container import lifecycle


def test_an_exit_code_that_does_not_come_is_a_timeout(monkeypatch):
    """Which `to_end` explains, as it does an engine that does not answer."""
    monkeypatch.setattr(lifecycle, "_GRACE", 0.01)
    with pytest.raises(TimeoutError, match="its exit code did not come"):
        lifecycle._exit_code(SimpleQueue())


def test_an_engine_that_is_gone_is_told_and_not_waited_for():
    """The error of the thread that asks is raised where the exit code is wanted."""
    with socket.socket() as taken:  # and not listened to, so that a connection is refused
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        client = DockerClient(base_url=f"tcp://127.0.0.1:{port}", version="1.41")
        ended = lifecycle._ending(client, "name")
        with pytest.raises(NoConnection):
            lifecycle._exit_code(ended)
    client.close()
