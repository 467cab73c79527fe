"""What the user sees while a build runs: live bars on a terminal, one line a step in a pipe."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)

# Bound to the stream of now: the calibrate step sends the libraries' chatter elsewhere meanwhile.
_console = Console(file=sys.stderr, highlight=False)


def say(text: str) -> None:
    """Prints one line of progress."""
    _console.print(text, markup=False, soft_wrap=True)


def skipped(step: str) -> None:
    """Tells that a step's result was in the store."""
    say(f"{step:>10}  unchanged, nothing to do")


@contextmanager
def running(step: str) -> Iterator[None]:
    """Tells that a step begins and how long it took."""
    say(f"{step:>10}  ...")
    started = time.monotonic()
    yield
    say(f"{step:>10}  done in {time.monotonic() - started:.1f} s")


@contextmanager
def bytes_bar(what: str, total: int) -> Iterator[Progress]:
    """A bar over bytes; one task is there, number 0. Shows nothing in a pipe."""
    columns = (TextColumn(what), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=_console, transient=True, disable=_quiet()) as progress:
        progress.add_task(what, total=total)
        yield progress


@contextmanager
def count_bar(what: str, total: int) -> Iterator[Progress]:
    """A bar over things counted; one task is there, number 0. Shows nothing in a pipe."""
    columns = (
        SpinnerColumn(),
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=_console, transient=True, disable=_quiet()) as progress:
        progress.add_task(what, total=total)
        yield progress


def _quiet() -> bool:
    return not _console.is_terminal
