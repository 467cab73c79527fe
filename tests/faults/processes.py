"""Commands that run at the same time, each in a process forked from this one, which is warm.

A fork has all modules and compiled loops at once, so a build of the small base takes 0.2 s instead
of 4 s. What it says and its exit code are those of the command line.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from forge import remedies
from forge.core import commandline

# Seconds until a process that has not ended counts as one that waits for ever.
PATIENCE = 60.0
TOLD = "error: "
STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@dataclass(frozen=True, kw_only=True)
class Actor:
    """A command that runs beside others, and what happens to it meanwhile.

    Args:
        name: what a report calls it; no two of a round have the same.
        work: the command; it may end by `SystemExit` with its code.
        after: seconds until it begins.
        killed: seconds until it is ended by a signal, or None.
        by: the signal.
        dies: whether it kills itself.
        pauses: when it is stopped and for how long, in seconds.
        refusals: parts of the errors that it may end with.
    """

    name: str
    work: Callable[[], object]
    after: float = 0.0
    killed: float | None = None
    by: signal.Signals = signal.SIGKILL
    dies: bool = False
    pauses: Sequence[tuple[float, float]] = ()
    refusals: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a command ended: its exit code, or the number of a signal, negative; and what it said."""

    code: int
    said: str

    @property
    def errors(self) -> list[str]:
        """The errors that it told, each the one line that it should be."""
        return [line for line in self.said.splitlines() if line.startswith(TOLD)]


def together(actors: Sequence[Actor], logs: Path) -> dict[str, Ended]:
    """Runs all of them at once, and waits for them; none is left when this returns."""
    start = time.monotonic() + 0.01
    running: dict[str, int] = {}
    try:
        for actor in actors:
            running[actor.name] = _fork(actor, logs / f"{actor.name}.log", start)
        for when, name, number in _signals(actors):
            time.sleep(max(0.0, start + when - time.monotonic()))
            os.kill(running[name], number)  # is no other's: it was not waited for yet
        codes = _wait(running)
    finally:
        for pid in running.values():
            with suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
    return {
        name: Ended(code=code, said=_text(logs / f"{name}.log")) for name, code in codes.items()
    }


def alone(name: str, work: Callable[[], object], logs: Path) -> Ended:
    """Runs one command, and waits for it."""
    return together([Actor(name=name, work=work)], logs)[name]


def _signals(actors: Iterable[Actor]) -> list[tuple[float, str, signal.Signals]]:
    found = []
    for actor in actors:
        for begin, seconds in actor.pauses:
            found.append((begin, actor.name, signal.SIGSTOP))
            found.append((begin + seconds, actor.name, signal.SIGCONT))
        if actor.killed is not None:
            found.append((actor.killed, actor.name, actor.by))
    return sorted(found)


def _fork(actor: Actor, log: Path, start: float) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        sys.stdout = sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        for number in STOPS:
            signal.signal(number, signal.SIG_DFL)  # as a command is started
        time.sleep(max(0.0, start + actor.after - time.monotonic()))
        commandline.run(actor.work, remedies.remedy)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    finally:
        with suppress(BaseException):
            sys.stderr.flush()
        os._exit(code)  # nothing of the process that this was forked from runs here


def _wait(running: Mapping[str, int]) -> dict[str, int]:
    """The exit codes; of those that do not end, that of SIGALRM."""
    deadline = time.monotonic() + PATIENCE
    codes: dict[str, int] = {}
    while len(codes) < len(running):
        for name, pid in running.items():
            if name not in codes:
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    codes[name] = os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            return {name: codes.get(name, -signal.SIGALRM) for name in running}
        time.sleep(0.002)
    return codes


def _text(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
