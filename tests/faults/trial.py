"""One trial: a command in a process of its own, with a fault at one of its calls."""

import atexit
import fcntl
import os
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from faults import shim
from faults.beside import Beside
from faults.commands import Command
from faults.shim import Bad, Fault, Operation

SECONDS = 60  # after which a run is taken for wedged


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a run ended: its exit code or minus the signal, all that it said, all that it called.

    `bad` is the file that cannot be read since.
    """

    code: int
    said: str
    operations: Sequence[Operation]
    bad: Bad | None = None

    @property
    def errors(self) -> int:
        """How many lines tell an error."""
        return sum(line.startswith("error:") for line in self.said.splitlines())

    @property
    def has_traceback(self) -> bool:
        return "Traceback (most recent call last)" in self.said

    def at(self, fault: Fault) -> Operation | None:
        """The call that the fault was for, if it came to that."""
        return next(
            (o for o in self.operations if (o.kind, o.number) == (fault.kind, fault.number)), None
        )


def run(
    command: Command,
    root: Path,
    world: Path,
    fault: Fault | None = None,
    beside: Beside | None = None,
    *,
    bad: Bad | None = None,
) -> Ended:
    """Runs a command in a world, in a fork of this process, with the hub that is beside it.

    A file that is `bad` cannot be read.
    """
    said, log = os.memfd_create("said"), os.memfd_create("log")
    fcntl.fcntl(log, fcntl.F_SETFL, os.O_APPEND)  # threads write lines to it at the same time
    gate, opener = os.pipe()
    try:
        child = os.fork()
        if child == 0:
            os.read(gate, 1)
            env = {} if beside is None else beside.env
            _in_child(command, root, world, fault, bad=bad, env=env, said=said, log=log)
        if beside is not None:
            beside.started(child, fault)
        os.write(opener, b".")
        _, status = os.waitpid(child, 0)
        text = os.pread(said, os.fstat(said).st_size, 0).decode("utf-8", "replace")
        operations, found = shim.operations(log)
        for number, line in enumerate([] if beside is None else beside.requests(), start=1):
            operations.append(
                Operation(kind=shim.REQUEST, number=number, name="request", traits=0, path=line)
            )
        code = os.waitstatus_to_exitcode(status)
        return Ended(code=code, said=text, operations=operations, bad=found)
    finally:
        for descriptor in (said, log, gate, opener):
            os.close(descriptor)


def _in_child(
    command: Command,
    root: Path,
    world: Path,
    fault: Fault | None,
    *,
    bad: Bad | None,
    env: Mapping[str, str],
    said: int,
    log: int,
) -> None:
    code = 1
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(said, 1)
        os.dup2(said, 2)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(SECONDS)
        os.environ |= {"HOME": str(world / "home"), "TMPDIR": str(world / "tmp"), **env}
        tempfile.tempdir = None
        os.chdir(world)
        if fault is not None or bad is not None:
            shim.arm(root, fault or Fault(), log, bad)
        code = _code_of(command, root / "fixed", world)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _code_of(command: Command, fixed: Path, world: Path) -> int:
    """As Python ends: threads are waited for, and what is to be done at exit is done."""
    try:
        command.run(fixed, world)
    except SystemExit as ended:
        code = ended.code
        return code if isinstance(code, int) else int(code is not None)
    finally:
        threading._shutdown()
        atexit._run_exitfuncs()
    raise AssertionError("a command line ends by SystemExit")
