"""Tries every command at every call that changes or reads a file: `<python> tests/faults`.

Then it runs the rounds of neighbours. Exit code 1 if anything was lost, left over, wedged, told by
a traceback, or not told.
"""

import argparse
import re
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the folder of the tests, not this one

from faults import shim  # noqa: E402 - the path is known now

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from faults.report import Row

MEMORY = Path("/dev/shm")  # noqa: S108 - the kernel's own, where a flush to the disk costs nothing

NEIGHBOURS = "neighbours"


def main() -> int:
    """Runs what was asked for; returns the exit code."""
    options = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    options.add_argument("commands", nargs="*", help="only these, or `neighbours`")
    options.add_argument("--sample", type=int, help="so many faults of each kind a command")
    options.add_argument(
        "--match", help="only faults or pairs that this finds, as '^killed after change 7$'"
    )
    options.add_argument("--workers", type=int, default=2)
    options.add_argument("--rounds", type=int, default=100, help="so many of each kind")
    options.add_argument("--seed", type=int, default=14, help="that decides when commands begin")
    options.add_argument("--report", type=Path, default=Path("dist", "faults.json"))
    options.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)  # made by the first start
    asked = options.parse_args()
    if not shim.is_loaded():
        where = MEMORY if MEMORY.is_dir() else None
        scratch = Path(tempfile.mkdtemp(dir=where, prefix="hallmark-faults-"))
        sys.argv += ["--scratch", str(scratch)]
        shim.reexec(shim.build(scratch))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        return run(asked)
    finally:
        shutil.rmtree(asked.scratch)


def run(asked: argparse.Namespace) -> int:
    """The walks that were asked for, in this process, which has the library."""
    # With the library loaded, and only here: the first start needs none of it.
    from faults import commands, neighbours, report, walk
    from faults.careless import CARELESS
    from faults.pieces import PIECES

    root = asked.scratch / "root"
    for name in ("fixed", "snapshots", "worlds"):
        (root / name).mkdir(parents=True)
    commands.warm()
    with walk.quiet():
        commands.inputs(root / "fixed")
    rows = []
    known = (*commands.COMMANDS, *PIECES)
    every = {command.name: command for command in (*known, CARELESS)}
    names = asked.commands or [command.name for command in known]
    for name in (name for name in names if name != NEIGHBOURS):
        command = every[name]
        on = walk.stage(command, root)
        chosen = list(walk.faults(on.operations))
        if asked.match:
            chosen = [fault for fault in chosen if re.search(asked.match, str(fault))]
        if asked.sample:
            chosen = walk.sample(chosen, asked.sample)
        rows.append(walk.walk(on, chosen, asked.workers))
        report.show(rows[-1])
        report.write(asked.report, rows)
    if NEIGHBOURS in asked.commands or not (asked.commands or asked.sample or asked.match):
        print(f"neighbours: {asked.rounds} rounds of each kind, seed {asked.seed}", flush=True)  # noqa: T201
        kept = asked.report.with_name(NEIGHBOURS)
        with neighbours.warm() as made:
            for kind in (kind for kind in neighbours.KINDS if re.search(asked.match or "", kind)):
                rows.append(neighbours.rounds(kind, made, asked.rounds, asked.seed, kept))
                report.show(rows[-1])
                report.write(asked.report, rows)
    _tell_totals([row for row in rows if row.part != NEIGHBOURS], report.table)
    _tell_totals([row for row in rows if row.part == NEIGHBOURS], report.rounds)
    return 0 if rows and all(row.is_good for row in rows) else 1


def _tell_totals(rows: "Sequence[Row]", told: "Callable[[Sequence[Row]], str]") -> None:
    """What the pages state, to be copied there."""
    if rows:
        print(f"\n{told(rows)}", flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
