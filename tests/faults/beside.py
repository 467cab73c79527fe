"""A hub on loopback beside a trial, in a process of its own, and faults at its requests.

At request number N the command is killed, before the hub does what it is asked or after that and
before it answers; or the hub refuses, or breaks the connection.
"""

import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

import hub_server
from faults import shim
from faults.shim import Fault

REPO = "someone/result"
# What a request can meet besides a kill: an HTTP status, or no answer.
REFUSALS = (403, 429, 500, 503, shim.RESET)


class Handler(hub_server.Handler):
    """Does to the request that is due what it is to meet."""

    fault = Fault()
    client = 0  # the process that asks

    def _is_troubled(self):
        self.kills = False
        fault = type(self).fault
        if fault.kind != shim.REQUEST or len(self.hub.requests) != fault.number:
            return super()._is_troubled()
        self.kills = fault.mode == shim.KILL_AFTER
        if self.kills:
            return False
        self.close_connection = True
        if fault.mode == shim.KILL_BEFORE:
            os.kill(self.client, signal.SIGKILL)
        elif fault.error != shim.RESET:
            self._send(fault.error, b"")
        return True

    def _send(self, *words, **more) -> None:
        if self.kills:
            self.close_connection = True
            os.kill(self.client, signal.SIGKILL)
            return
        super()._send(*words, **more)


class Beside:
    """The hub of one trial, as the process that tries sees it."""

    def __init__(self, control: Connection) -> None:
        self._control = control
        self.env = {"HF_ENDPOINT": control.recv()}

    def started(self, client: int, fault: Fault | None) -> None:
        """Requests are counted from now on; those of this process meet the fault."""
        self._ask("started", client, fault or Fault())

    def requests(self) -> list[str]:
        """What was asked since then."""
        return self._ask("requests")

    def state(self) -> dict[str, str]:
        """The files of the repository by digest, as an inventory."""
        return self._ask("state")

    def commits(self) -> list[dict[str, bytes]]:
        """The files that each commit of the repository has, the newest last."""
        return self._ask("commits")

    def _ask(self, *words: object) -> Any:
        self._control.send(words)
        return self._control.recv()


@contextmanager
def hub(files: Mapping[str, bytes]) -> Iterator[Beside]:
    """A hub whose repository has one commit with these files; none, if there are none."""
    ours, theirs = Pipe()
    child = os.fork()
    if child == 0:
        try:
            ours.close()
            _serve(theirs, files)
        finally:
            os._exit(0)
    theirs.close()
    try:
        yield Beside(ours)
    finally:
        ours.close()
        os.waitpid(child, 0)


def _serve(control: Connection, files: Mapping[str, bytes]) -> None:
    with hub_server.serve(handler=Handler) as server:
        if files:
            server.add(REPO, files)
        control.send(server.url)
        while True:
            try:
                what, *words = control.recv()
            except EOFError:
                return
            if what == "started":
                Handler.client, Handler.fault = words
                server.requests.clear()
            control.send(
                {
                    "started": lambda: None,
                    "requests": lambda: list(server.requests),
                    "state": lambda: _state(server),
                    "commits": lambda: list(server.repos.get(("model", REPO), {}).values()),
                }[what]()
            )


def _state(server: hub_server.Hub) -> dict[str, str]:
    commits = server.repos.get(("model", REPO))
    if commits is None:
        return {}
    newest = list(commits.values())[-1]
    return {f"hub/{name}": sha256(data).hexdigest() for name, data in newest.items()}
