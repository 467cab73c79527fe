"""What the user sees while a build runs: live bars on a terminal, one line a step in a pipe."""

import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)

from forge.core.errors import HallmarkError

# The variable that names the interface in use: `make`, or nothing for the commands themselves.
INTERFACE = "HALLMARK_INTERFACE"

# Bound to the stream of now: the calibrate step sends the libraries' chatter elsewhere meanwhile.
_console = Console(file=sys.stderr, highlight=False)


def say(text: str) -> None:
    """Prints one line of progress."""
    _console.print(text, markup=False, soft_wrap=True)


def command(
    app: Callable[[], None],
    remedy: Callable[[HallmarkError], str | None],
    *,
    tell_code: bool = True,
) -> NoReturn:
    """Runs a command line and exits with its code; `remedy` says what to do about an error.

    An exit code other than 0 is the last line on standard error as well, `hallmark: exit 41`:
    GNU make answers 2 for each of them. A process whose parent tells the code leaves it out.
    """
    code = _outcome(app, remedy)
    if code and tell_code:
        say(f"hallmark: exit {code}")
    sys.exit(code)


def _outcome(app: Callable[[], None], remedy: Callable[[HallmarkError], str | None]) -> int:
    """The exit code of a command line, after it has said what went wrong, if anything did."""
    try:
        app()
    except HallmarkError as error:
        say(f"error: {error}")
        if (help_ := remedy(error)) is not None:
            say(f"help: {help_}")
        return error.code
    except SystemExit as ended:
        if isinstance(ended.code, int):
            return ended.code
        raise  # without a code or with a message, which Python prints
    except Exception:  # a bug: said as Python says it, since the exit code comes after it
        traceback.print_exc()
        return 1
    return 0


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
def bytes_bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar over bytes; calling what is yielded advances it. Shows nothing in a pipe."""
    with _bar(what, total, DownloadColumn(), TransferSpeedColumn()) as advance:
        yield advance


@contextmanager
def count_bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar over things counted; calling what is yielded advances it. Shows nothing in a pipe."""
    with _bar(what, total, MofNCompleteColumn(), TimeElapsedColumn()) as advance:
        yield advance


@contextmanager
def _bar(what: str, total: int, *columns: ProgressColumn) -> Iterator[Callable[[int], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), *columns)
    quiet = not _console.is_terminal
    with Progress(*columns, console=_console, transient=True, disable=quiet) as progress:
        task = progress.add_task(f"{what:>10}", total=total)
        yield lambda count: progress.advance(task, count)
