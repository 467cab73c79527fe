"""The library of shim.c: built here, loaded before all others, and told what is to happen."""

import ctypes
import errno
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).with_name("shim.c")
# As in shim.c, which knows nothing of requests; beside.py sees to those.
CHANGE, READ, REQUEST = 0, 1, 2
WATCH, KILL_BEFORE, TEAR, KILL_AFTER, REFUSE, FULL, UNREADABLE = range(7)
BAD = 3  # in place of a kind: a line of the log that has the file with a bad sector
GROWS, WRITES = 1, 2
RESET = -1  # in place of a status: the connection breaks

KINDS = ("change", "read", "request")
MODES = {
    WATCH: "watched",
    KILL_BEFORE: "killed before",
    TEAR: "killed within",
    KILL_AFTER: "killed after",
    REFUSE: "refused",
    FULL: "full disk from",
    UNREADABLE: "unreadable from",
}
KILLS = frozenset({KILL_BEFORE, TEAR, KILL_AFTER})


@dataclass(frozen=True, kw_only=True)
class Operation:
    """A call that was counted: the number that it had in its count, and what it was about."""

    kind: int
    number: int
    name: str
    traits: int
    path: str


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What happens at the call of this number; `error` is an errno, or of a request a status.

    With the mode `UNREADABLE`, the file that is read there cannot be read from then on.
    """

    mode: int = WATCH
    kind: int = CHANGE
    number: int = 0
    error: int = 0

    def __str__(self) -> str:
        """As a report has it, such as `refused (EIO) read 12`."""
        if self.kind == REQUEST:
            error = "reset" if self.error == RESET else str(self.error)
        else:
            error = errno.errorcode.get(self.error, "")
        told = f" ({error})" if self.mode in {REFUSE, FULL} else ""
        return f"{MODES[self.mode]}{told} {KINDS[self.kind]} {self.number}"


class Bad(NamedTuple):
    """The file that has a bad sector."""

    device: int
    inode: int


def build(folder: Path) -> Path:
    """Compiles the library into a folder."""
    library = folder / "shim.so"
    subprocess.run(
        ["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC",
         "-o", library, SOURCE, "-ldl"],
        check=True,
    )  # fmt: skip
    return library


def reexec(library: Path) -> None:
    """Begins this process anew with the library loaded, one thread in it, and nothing inherited."""
    kept = ("PATH", "LANG", "LC_ALL", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE")
    env = {name: os.environ[name] for name in kept if name in os.environ}
    # A process that forks may have no other threads; numpy's linear algebra would start some.
    env |= {"LD_PRELOAD": str(library), "OPENBLAS_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    os.execve(sys.executable, [sys.executable, *sys.argv], env)  # noqa: S606


def is_loaded() -> bool:
    """Whether this process has the library."""
    return hasattr(ctypes.CDLL(None), "faults_arm")


def arm(below: Path, fault: Fault, log: int, bad: Bad | None = None) -> None:
    """From now on, calls below a folder are counted, and the fault happens when it is due.

    With `bad`, that file cannot be read.
    """
    ctypes.CDLL(None).faults_arm(
        os.fsencode(f"{below}/"), fault.kind, fault.mode, ctypes.c_long(fault.number),
        fault.error, log,
    )  # fmt: skip
    if bad is not None:
        ctypes.CDLL(None).faults_bad(*map(ctypes.c_ulong, bad))


def rename(old: Path, new: Path) -> None:
    """Renames without a number, and without an error: so a kill may have left it before."""
    ctypes.CDLL(None).faults_rename(os.fsencode(old), os.fsencode(new))


def operations(log: int) -> tuple[list[Operation], Bad | None]:
    """What was counted, from the log, and the file that cannot be read any more."""
    data = os.pread(log, os.fstat(log).st_size, 0).decode("utf-8", "surrogateescape")
    found: list[Operation] = []
    bad = None
    # A kill can cut the line that another thread was writing at that moment, and then it is last.
    whole, _, _ = data.rpartition("\n")
    for line in whole.split("\n") if whole else ():
        kind, number, name, traits, path = line.split(" ", 4)
        if int(kind) == BAD:
            bad = Bad(device=int(number), inode=int(traits))
            continue
        found.append(
            Operation(kind=int(kind), number=int(number), name=name, traits=int(traits), path=path)
        )
    return found, bad
