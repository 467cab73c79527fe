"""SIGINT, SIGTERM and SIGHUP end a command: it says so in one line, cleans up, and exits 128 + n.

A command line imports this module before any other and calls `watch`, so this imports only what an
interpreter has at hand. From then on there are three times:

- While modules are imported, there is nothing to clean up: the process ends at once.
- While the command runs, `Stopped` is raised in the main thread, and what is half made is removed
  on its way. It is raised again every second, since a library may swallow it, or wait for threads
  that go on; and at once where Python itself swallows it, in a finalizer. `held` keeps it out of a
  clean-up.
- After `SECONDS` the process ends wherever it is, a long call of a library included. Its children
  end with it (:mod:`forge.core.supervisor`), and the next run removes what is left, as after
  SIGKILL.

A signal that the parent had ignored, as nohup does SIGHUP, stays ignored.
"""

import _signal  # type: ignore[import-not-found] # what `signal` is made of, after enum and more
import os
import sys
import time
from _thread import get_ident, start_new_thread
from collections.abc import Callable
from contextlib import suppress
from functools import partial

NAMES = {_signal.SIGINT: "SIGINT", _signal.SIGTERM: "SIGTERM", _signal.SIGHUP: "SIGHUP"}
# From the signal to the end. A process that another command started has a second less, so that its
# parent sees its end. Children are killed `RESERVE` before the end.
SECONDS = 4.5
INNER_SECONDS = 3.5
RESERVE = 0.5
# A terminal tells the whole group, and nox hands on what it is told: twice within this is once.
SAME_SECONDS = 1.0


class Stopped(SystemExit):
    """A signal ends this command; no Exception, so that no library takes it for an error."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)


class _State:
    inner: bool = False
    watched: bool = False
    running: bool = False
    held: int = 0
    due: bool = False  # raise `Stopped` as soon as nothing holds it any more
    raised: bool = False
    again: bool = False  # the watcher repeats the signal


_state = _State()
_MAIN = get_ident()  # the main thread, which is the first to import this
# The first signal and its time, under the key 0: set in one operation, by handler or watcher.
_first: dict[int, tuple[int, float]] = {}


def watch(*, inner: bool = False) -> None:
    """From now on a signal ends this process; `inner` if it is another command's, which tells."""
    _state.inner, _state.watched = inner, True
    for number in NAMES:
        if _signal.getsignal(number) != _signal.SIG_IGN:
            _signal.signal(number, _handle)
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, NAMES)  # those that waited for this
    os.register_at_fork(after_in_child=_forget)


def run(command: Callable[[], int]) -> int:
    """Runs a command and returns its exit code; if a signal comes, the process ends in here.

    A command within a command is part of it: a signal ends both, where the outer one ends.
    """
    if _state.running:
        return command()
    if not _state.watched:
        watch()
    told, tell = os.pipe()
    os.set_blocking(tell, False)
    before = _signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
    start_new_thread(_end_in_time, (told,))  # one that does not keep the process
    ignored, sys.unraisablehook = sys.unraisablehook, partial(_ignored, sys.unraisablehook)
    _state.running = True
    try:
        return command()
    finally:
        _state.running = False
        if _first:
            for stream in (sys.stdout, sys.stderr):
                with suppress(OSError, ValueError):
                    stream.flush()
            os._exit(128 + _first[0][0])  # threads that still work are not waited for
        sys.unraisablehook = ignored
        _signal.set_wakeup_fd(before)
        os.close(tell)  # with which the thread ends


def stopping() -> bool:
    """Whether a signal has come, so that what fails now may fail because of it."""
    return bool(_first)


def seconds_left() -> float:
    """How long children may take to end: for ever, until a signal comes."""
    return _end() - RESERVE - time.monotonic() if _first else float("inf")


class held:  # noqa: N801 - used as a function
    """Within the block no signal interrupts the main thread; one that comes does so at its end."""

    def __enter__(self) -> None:
        if get_ident() == _MAIN:
            _state.held += 1

    def __exit__(self, *_: object) -> None:
        if get_ident() == _MAIN:
            _state.held -= 1
            if _state.due and not _state.held:
                _raise()


def _handle(number: int, _: object) -> None:
    """Runs in the main thread, between two of its instructions."""
    _note(number)
    if not _state.running:
        os._exit(128 + _first[0][0])
    if not _state.raised or _state.again:
        _state.raised, _state.again = True, False
        if _state.held:
            _state.due = True
        else:
            _raise()
    elif number == _signal.SIGINT and time.monotonic() - _first[0][1] > SAME_SECONDS:
        os._exit(128 + _first[0][0])


def _raise() -> None:
    _state.due = False
    raise Stopped(_first[0][0])


def _ignored(
    tell: Callable[["sys.UnraisableHookArgs"], object], what: "sys.UnraisableHookArgs"
) -> None:
    """What a finalizer raises is only printed; `Stopped` is raised again instead, outside of it."""
    if isinstance(what.exc_value, Stopped):
        start_new_thread(_repeat, (_first[0][0], 0.01))  # when this has returned
    else:
        tell(what)


def _repeat(number: int, seconds: float) -> None:
    """Raises `Stopped` again in the main thread, after so many seconds."""
    time.sleep(seconds)
    _state.again = True
    _signal.pthread_kill(_MAIN, number)


def _note(number: int) -> None:
    """Notes a signal, and tells it if it is the first."""
    this = (number, time.monotonic())
    if _first.setdefault(0, this) is not this or _state.inner:
        return
    clear = "\r\x1b[K" if os.isatty(2) else ""  # on a terminal, in the place of a bar
    with suppress(OSError):  # the terminal may be what went
        os.write(2, f"{clear}hallmark: exit {128 + number}, stopped by {NAMES[number]}\n".encode())


def _end() -> float:
    """When this process ends at the latest, by the monotonic clock."""
    return _first[0][1] + (INNER_SECONDS if _state.inner else SECONDS)


def _end_in_time(told: int) -> None:
    """Waits in a thread for a signal; repeats it while the process goes on, then ends that.

    Without a signal it waits until the command has ended.
    """
    number = 0
    while number not in NAMES:  # libraries may handle others
        came = os.read(told, 1)
        if not came:
            os.close(told)
            return
        number = came[0]
    _note(number)
    while (left := _end() - time.monotonic()) > 0:
        _repeat(number, min(1.0, left))
    os._exit(128 + _first[0][0])


def _forget() -> None:
    """In a forked child, which a library made: signals do there what they do without us."""
    _state.watched = _state.running = False
    _signal.set_wakeup_fd(-1)
    for number in NAMES:
        if _signal.getsignal(number) is _handle:
            interrupt = number == _signal.SIGINT
            _signal.signal(number, _signal.default_int_handler if interrupt else _signal.SIG_DFL)
