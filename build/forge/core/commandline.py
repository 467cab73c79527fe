"""Runs a command line: what it says of an error, and the code that it exits with."""

import os
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from forge.core import console, signals, surroundings, system_errors
from forge.core.console import say
from forge.core.errors import FileSystemError, HallmarkError

# The variable that names the interface in use: `make`, or nothing for the commands themselves.
INTERFACE = "HALLMARK_INTERFACE"
# The variable that asks for the traceback of every error; the processes of a build inherit it.
DEBUG = "HALLMARK_DEBUG"
UNWRITTEN = "what this command prints cannot be written"
EPILOG = f"With any command: `--debug`, or {DEBUG}=1, prints the traceback of an error."


def run(
    app: Callable[[], None],
    remedy: Callable[[HallmarkError], str | None],
    *,
    tell_code: bool = True,
) -> NoReturn:
    """Runs a command line and exits with its code; `remedy` says what to do about an error.

    An exit code other than 0 is the last line on standard error as well, `hallmark: exit 41`:
    GNU make answers 2 for each of them. A process whose parent tells the code leaves it out.
    So does one that ends because nobody reads what it prints, with 141 as if by that signal. After
    another signal, what is said and the code are those of :mod:`forge.core.signals`.
    `--debug` is taken from the arguments, wherever it stands among them.
    """
    surroundings.prepare()
    console.bind()
    if "--debug" in sys.argv[1:]:
        sys.argv.remove("--debug")
        os.environ[DEBUG] = "1"
    code = signals.run(lambda: _outcome(app, remedy))
    if (unsaid := surroundings.finish()) is not None and not code:
        code = surroundings.UNREAD
        if not isinstance(unsaid, BrokenPipeError):
            _tell(f"error: {UNWRITTEN}: {unsaid.strerror}.")
            code = FileSystemError.code
    if code and code != surroundings.UNREAD and tell_code:
        _tell(f"hallmark: exit {code}")
    sys.exit(code)


def _outcome(app: Callable[[], None], remedy: Callable[[HallmarkError], str | None]) -> int:
    """The exit code of a command line, after it has said what went wrong, if anything did."""
    try:
        _unless_stopped(app)
    except HallmarkError as error:
        _trace()
        _tell(f"error: {error}")
        if (help_ := remedy(error)) is not None:
            _tell(f"help: {help_}")
        return error.code
    except SystemExit as ended:
        # Which click makes of it; after a signal it is the signal that counts.
        if isinstance(ended.__context__, BrokenPipeError) and not signals.stopping():
            if surroundings.unread():
                return surroundings.UNREAD
            _tell("".join(traceback.format_exception(ended.__context__)))  # of another pipe: a bug
        if isinstance(ended.code, int):
            return ended.code
        raise  # without a code or with a message, which Python prints
    except OSError as error:
        if system_errors.concerns_files(error):
            _trace()
            if error.filename is None and surroundings.finish() is not None:
                _tell(f"error: {UNWRITTEN}: {error.strerror}.")
            else:
                _tell(f"error: {system_errors.told(error)}")
            return FileSystemError.code
        _tell(traceback.format_exc())
    except Exception:  # a bug: said as Python says it, since the exit code comes after it
        _tell(traceback.format_exc())
    else:
        return 0
    return 1


def _tell(text: str) -> None:
    """Says why a command ends; the code stays what it is where nobody can be told."""
    try:
        say(text)
    except OSError:
        surroundings.drop(sys.stderr)


def _unless_stopped(app: Callable[[], None]) -> None:
    """Runs the application; what fails after a signal came is no error to tell."""
    try:
        app()
    except Exception as error:
        if not signals.stopping():
            raise
        _trace()
        raise SystemExit(1) from error


def _trace() -> None:
    """Prints the traceback of the error in hand, if it was asked for."""
    if os.environ.get(DEBUG) == "1":
        _tell(traceback.format_exc())
