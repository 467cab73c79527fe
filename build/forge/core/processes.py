"""Processes that end with the one that started them: on success, an error, or any signal.

Every process started here is held on a leash, in a process group that is stopped whole, whatever
happens to the caller. Its output is passed on, or kept in a log, whose last lines an error that
concerns it carries.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from forge.core import leash

STOP_SECONDS = 20.0
LOG_LINES = 40


@contextmanager
def process(
    command: Sequence[str], *, log: Path | None = None, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a command in its own process group; stops the group at the end.

    Its output goes to `log`, or where ours goes; its environment is `env`, or ours. SIGTERM, sent
    to this process meanwhile, ends the group and then this process with 143; only the main thread
    can see to that, so start processes there.
    """
    with ExitStack() as stack:
        sink = None
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True)
            sink = stack.enter_context(log.open("wb"))
        stack.enter_context(_unwound_by_sigterm())
        child = subprocess.Popen(  # noqa: S603 (the command is made in this package)
            [sys.executable, leash.__file__, *command],
            stdin=subprocess.PIPE,
            stdout=sink,
            stderr=None if sink is None else subprocess.STDOUT,
            env=None if env is None else dict(env),
            start_new_session=True,
        )
        try:
            yield child
        finally:
            _stop(child)


def tail(log: Path) -> str:
    """The last lines of a log, with its path."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:]
    return "\n".join([f"The last lines of {log}:", *lines])


@contextmanager
def _unwound_by_sigterm() -> Iterator[None]:
    """Makes SIGTERM an exception: by default it ends Python at once, and children live on."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def unwind(number: int, _: object) -> NoReturn:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, unwind)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _stop(child: subprocess.Popen[bytes]) -> None:
    """Ends a process group: asked first, killed when it does not go; a second Ctrl-C kills too."""
    try:
        _signal(child, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            child.wait(STOP_SECONDS)
    finally:
        _signal(child, signal.SIGKILL)  # also what outlived the leader of the group
        child.communicate()


def _signal(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(child.pid, number)
