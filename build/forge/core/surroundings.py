"""Prepares a command's surroundings: variables, locale and standard streams, whatever they are.

Libraries read their own files as the locale says, fail where docstrings are stripped or warnings
are errors, and write to descriptor 1 whatever that is. So a command first makes its surroundings
what the libraries take for granted. The processes that it starts inherit them.
"""

import io
import locale
import os
import select
import signal
import sys
from contextlib import suppress
from typing import TextIO

from forge.core import signals

# What a shell says of a process that wrote to a pipe which nobody reads.
UNREAD = 128 + signal.SIGPIPE
# Each changes what a library's code means, or lets a process wait at its end.
_FOREIGN = ("PYTHONDEVMODE", "PYTHONINSPECT", "PYTHONOPTIMIZE", "PYTHONWARNINGS")


def prepare() -> None:
    """Starts this command once more if its locale or variables would mislead a library.

    Then sees to it that all three standard streams are open, and can show any text.
    """
    _start_plainly()
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            _open_nothing(number, name)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def finish() -> OSError | None:
    """Writes out what is still to be said on the standard streams; why that fails, if it does.

    What cannot be written is dropped: Python would try again at its end, and exit with 120.
    """
    failed = None
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            failed = failed or error
            drop(stream)
    return failed


def drop(stream: TextIO) -> None:
    """Sends what a stream holds, and all that follows, to nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def unread() -> bool:
    """Whether whoever was to read standard output or standard error has gone."""
    streams = select.poll()
    for number in (1, 2):
        with suppress(OSError):
            streams.register(number, 0)  # that a pipe is broken is always told
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in streams.poll(0))


def _start_plainly() -> None:
    foreign = [name for name in _FOREIGN if os.environ.pop(name, "")]
    misread = not sys.flags.utf8_mode and locale.getencoding().lower() != "utf-8"
    if misread:
        os.environ["PYTHONUTF8"] = "1"  # for the processes of a build
    if foreign or misread:
        utf8 = ("-X", "utf8") if misread else ()
        # Kept for the next start, which heeds them; its interpreter would not at once.
        signal.pthread_sigmask(signal.SIG_BLOCK, signals.NAMES)
        os.execv(sys.executable, [sys.executable, *utf8, *sys.orig_argv[1:]])  # noqa: S606


def _open_nothing(number: int, name: str) -> None:
    """Has nothing under a number that is not open, before a file of ours gets it."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    if nowhere != number:
        os.dup2(nowhere, number)
        os.close(nowhere)
    os.set_inheritable(number, True)
    mode = "r" if number == 0 else "w"
    setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))
