"""Failures of libraries, reported as errors of the step that called them.

A library raises what it likes, and its traceback helps only a developer. So each call is wrapped
narrowly in :func:`library`, which knows what was being done, and to which file. A step whose key
must not depend on wording wraps its calls in :func:`forge.core.boundary.calling` instead, and runs
within :func:`telling`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from forge.core import boundary, system_errors
from forge.core.errors import HallmarkError

LONGEST = 500  # characters of what a library says; some quote a whole file
_OURS = ("forge", "assay")
# What Python raises where code is wrong.
_OF_BUGS = (AssertionError, AttributeError, LookupError, NameError, TypeError)
# Kinds whose names say nothing that their message does not.
_PLAIN = (Exception, RuntimeError, ValueError, OSError)
# How a panic of a library in Rust arrives; it is no Exception.
_PANIC = "PanicException"


@contextmanager
def library(
    name: str,
    kind: type[HallmarkError],
    what: str,
    *,
    shown: Callable[[str], str] = str,
    **facts: Any,
) -> Iterator[None]:
    """Turns what a library raises within into an error of ours: one line, with the cause.

    Passed on are errors of ours, those of the system about a file, which have a line of their own,
    and bugs in our own code, which keep their traceback: called back by the library or not.

    Args:
        name: the library, as people call it.
        kind: the error to raise in its place.
        what: what it was asked to do, and to which file.
        shown: what may be printed of the library's words, where they may hold a secret.
        facts: the remedy and what it needs, as the error takes them.

    Raises:
        HallmarkError: of that kind.
    """
    with telling(shown, **facts), boundary.calling(name, kind, what):
        yield


@contextmanager
def telling(shown: Callable[[str], str] = str, **facts: Any) -> Iterator[None]:
    """Turns what a library raises in a call within, which is noted on it, into an error of ours.

    Raises:
        HallmarkError: of the call's kind; see :func:`library`.
    """
    try:
        yield
    except BaseException as error:
        call = boundary.call_of(error)
        if call is None or not _is_theirs(error):
            raise
        told = f"{call.what}: {call.library} says: {shown(said(error))}"
        raise call.kind(told, **facts) from error


def said(error: BaseException) -> str:
    """What an error says, in one line of bounded length, and what the first of its causes says."""
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    own, first = _line(error), _line(cause)
    return own if str(cause) in own or first in own else f"{own} ({first})"


def _line(error: BaseException) -> str:
    """The first line of an error's own message, and its kind."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # A line that only announces the next says nothing alone.
    first = " ".join(lines[: 2 if lines and lines[0].endswith(":") else 1])
    if len(first) > LONGEST:
        first = f"{first[:LONGEST]} ..."
    if first and type(error) in _PLAIN:
        return first
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def _is_theirs(error: BaseException) -> bool:
    if not isinstance(error, Exception):
        return type(error).__name__ == _PANIC
    if isinstance(error, HallmarkError):
        return False
    if isinstance(error, OSError) and system_errors.concerns_files(error):
        return False
    return not (isinstance(error, _OF_BUGS) and _raised_by_us(error.__traceback__))


def _raised_by_us(trace: TracebackType | None) -> bool:
    """Whether the error arose in a module of ours, not in what that called."""
    module = ""
    while trace is not None:
        module = trace.tb_frame.f_globals.get("__name__", "")
        trace = trace.tb_next
    return module.partition(".")[0] in _OURS
