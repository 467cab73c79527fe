"""A command as none may be: it shows that the harness sees every kind of damage."""

import os
import sys
from pathlib import Path

from faults.commands import Command, furnish

OLD, NEW = "old and whole", "new and whole"
STORED = Path("store", "step", "0" * 64, "files", "result")


def prepare(fixed: Path, world: Path) -> None:
    """A result that was made before."""
    del fixed
    furnish(world)
    (world / "out").mkdir()
    (world / "out" / "result").write_text(OLD, encoding="utf-8")
    (world / STORED).parent.mkdir(parents=True)
    (world / STORED).write_text(OLD, encoding="utf-8")


def run(fixed: Path, world: Path) -> None:
    """Writes in place, leaves a scratch file if it is stopped, and is silent when it may not.

    A stored result that cannot be read stays where it is.
    """
    del fixed
    try:
        (world / STORED).read_text(encoding="utf-8")
    except OSError as error:
        sys.exit(f"error: {error}")
    result = world / "out" / "result"
    if result.read_text(encoding="utf-8") not in {OLD, NEW}:
        sys.exit("error: there is half a result, and this command cannot help itself")
    scratch = world / "tmp" / f"scratch-{os.getpid()}"
    scratch.write_text(NEW, encoding="utf-8")
    try:
        result.write_text(scratch.read_text(encoding="utf-8"), encoding="utf-8")
    except PermissionError:
        sys.exit(0)
    scratch.unlink()
    sys.exit(0)


CARELESS = Command(name="careless", title="careless", prepare=prepare, run=run, units=("out",))
