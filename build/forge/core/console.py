"""What the user sees while a build runs: live bars on a terminal, one line a step in a pipe."""

import errno
import os
import struct
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

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
from rich.segment import Segment
from rich.text import Text

from forge.core.portable import shown


class Plain(Console):
    """Shows text as it is, and no character that acts on a terminal or hides in it.

    Whoever writes learns when nobody reads.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, emoji=False, markup=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """A text, from which rich would take some control characters without a trace."""
        return super().render_str(shown(text, keep="\n\t"), **options)

    def _render_buffer(self, buffer: Iterable[Segment]) -> str:
        """All that is printed comes through here: text as segments, colours as their styles."""
        return super()._render_buffer(
            segment if segment.control else segment._replace(text=shown(segment.text, keep="\n"))
            for segment in buffer
        )

    def on_broken_pipe(self) -> None:
        """Is called for an error of writing, which rich would turn into an exit code of its own."""
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


# Bound to the stream of now: the calibrate step sends the libraries' chatter elsewhere meanwhile.
_console = Plain(file=sys.stderr)


def bind() -> None:
    """Shows what follows on standard error as it is now."""
    _console.file = sys.stderr


def say(text: str) -> None:
    """Prints one line of progress."""
    _console.print(text, markup=False, soft_wrap=True)


def out(text: str) -> None:
    """Prints a line of a result on standard output."""
    Plain(file=sys.stdout).print(text, markup=False, soft_wrap=True)


def out_json(text: str) -> None:
    """Prints JSON on standard output; it stays JSON, since only texts in it can need an escape."""
    escaped = (
        "".join(f"\\u{unit:04x}" for unit in struct.unpack(f">{len(raw) // 2}H", raw))
        if shown(character, keep="\n") != character
        else character
        for character in text
        for raw in [character.encode("utf-16-be", "surrogatepass")]
    )
    print("".join(escaped), end="")  # noqa: T201


def is_terminal() -> bool:
    """Whether bars are shown."""
    return _console.is_terminal


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
    quiet = not is_terminal()
    with Progress(*columns, console=_console, transient=True, disable=quiet) as progress:
        task = progress.add_task(f"{what:>10}", total=total)
        yield lambda count: progress.advance(task, count)
