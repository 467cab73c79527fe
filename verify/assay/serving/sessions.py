"""Servers that are asked: one check a probe, of what a server that lives has said.

A server that does not start, or that dies while it is asked, says nothing of the checkpoint: a full
disk and a missing compiler look the same. That is an EngineError, and no check at all.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

from assay.serving.client import Client, RefusedError
from assay.serving.engine import Server
from forge.manifest import verification
from forge.manifest.measured import Figures
from forge.manifest.verification import Check
from forge.recipes.recipe import Recipe

Probe = Callable[[Client], Figures]
Checks = list[Check[Any, Any]]


@dataclass(frozen=True, kw_only=True)
class Session:
    """A server that is still to be started, and what it will be asked, by the name of the check.

    `done` is called when the last answer is there, or none will come.
    """

    server: AbstractContextManager[Server]
    probes: Mapping[str, Probe]
    done: Callable[[], object] = lambda: None


def ask_all(
    sessions: Sequence[Session],
    recipe: Recipe,
    *,
    together: bool,
    meanwhile: Callable[[], Checks],
) -> Checks:
    """Asks every session, each server alone or all of them together; the checks in order.

    A GPU's memory is given to one server. A CPU has cores for two, and starting one takes one.
    The checks of `meanwhile` need no server; they come first.

    Raises:
        EngineError: a server did not start, or died while it was asked.
    """
    if not together:
        checks = meanwhile()
        for session in sessions:
            with session.server as server:
                checks += ask(server, session, recipe)
        return checks
    # The servers are the inner block, so an interruption stops them before it waits for threads.
    with ThreadPoolExecutor(len(sessions)) as pool, ExitStack() as stack:
        servers = [stack.enter_context(session.server) for session in sessions]
        pairs = zip(servers, sessions, strict=True)
        asked = [pool.submit(ask, server, session, recipe) for server, session in pairs]
        checks = meanwhile()
        return checks + [check for future in asked for check in future.result()]


def ask(server: Server, session: Session, recipe: Recipe) -> Checks:
    """One check a probe, from one server.

    Raises:
        EngineError: it did not start, or died while it was asked.
    """
    try:
        client = server.ready()
        return [
            attempt(name, recipe, partial(probe, client)) for name, probe in session.probes.items()
        ]
    finally:
        session.done()


def attempt(name: str, recipe: Recipe, probe: Callable[[], Figures]) -> Check[Any, Any]:
    """The check of what a probe measures; failed if the server refuses what the probe asks."""
    try:
        return verification.check(name, recipe, probe)
    except RefusedError as error:
        return verification.failed(name, str(error))
