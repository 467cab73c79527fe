"""Processes that end with the one that started them: on success, an error, or any signal.

Every process started here has a supervisor (:mod:`forge.core.supervisor`) and a process group of
its own, which is stopped whole, whatever happens to the caller. Signals of a terminal do not reach
it; :mod:`forge.core.signals` unwinds the caller, and that stops it. Its output is passed on, or
kept in a log, whose last lines an error that concerns it carries.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from forge.core import signals, supervisor

STOP_SECONDS = 20.0
LOG_LINES = 40
_running: list[subprocess.Popen[bytes]] = []


@contextmanager
def process(
    command: Sequence[str], *, log: Path | None = None, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a command in its own process group; stops the group at the end.

    Its output goes to `log`, or where ours goes; its environment is `env`, or ours. A signal ends
    the group by an exception in the main thread, so start processes there.
    """
    with ExitStack() as stack:
        sink = None
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True)
            sink = stack.enter_context(log.open("wb"))
        with signals.held():
            child = subprocess.Popen(  # noqa: S603 (the command is made in this package)
                [sys.executable, supervisor.__file__, *command],
                stdin=subprocess.PIPE,
                stdout=sink,
                stderr=None if sink is None else subprocess.STDOUT,
                env=None if env is None else dict(env),
                start_new_session=True,
            )
            stack.callback(_stop, child)
            _running.append(child)
        yield child


def tail(log: Path) -> str:
    """The last lines of a log, with its path."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:]
    return "\n".join([f"The last lines of {log}:", *lines])


def _stop(child: subprocess.Popen[bytes]) -> None:
    """Ends a process group: asked first, killed when it does not go; sooner after a signal."""
    with signals.held():
        # After a signal all are to go, and there is no time to ask one after the other.
        for one in list(_running) if signals.stopping() else [child]:
            _signal(one, signal.SIGTERM)
        ends = time.monotonic() + STOP_SECONDS
        while child.poll() is None and time.monotonic() < ends and signals.seconds_left() > 0:
            time.sleep(0.02)
        _signal(child, signal.SIGKILL)  # also what outlived the leader of the group
        child.communicate()
        _running.remove(child)


def _signal(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(child.pid, number)
