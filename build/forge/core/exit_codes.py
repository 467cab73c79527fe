"""The exit codes of the command lines: one table, of which the documentation has a copy."""

import inspect
from typing import NamedTuple

from forge.core import errors
from forge.core.errors import HallmarkError


class ExitCode(NamedTuple):
    """An exit code, its name, and what it means."""

    code: str
    name: str
    meaning: str


def exit_codes() -> list[ExitCode]:
    """All exit codes in ascending order: those of every command, and one for each error class."""
    return [
        ExitCode("0", "done", "What was asked for is done, or was done before."),
        ExitCode("1", "bug", "A bug, with a traceback; or nox could not make an environment."),
        ExitCode(
            "2", "usage", "The command line does not parse: no such command, option or value."
        ),
        *_of_errors(),
        ExitCode("128 + n", "signal", "Signal n ended it: 130 is Ctrl-C, 143 SIGTERM, 129 SIGHUP."),
    ]


def table() -> str:
    """The exit codes as a table in Markdown."""
    rows = [ExitCode("code", "name", "meaning"), ExitCode("---", "---", "---"), *exit_codes()]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _of_errors() -> list[ExitCode]:
    classes = [
        found
        for _, found in inspect.getmembers(errors, inspect.isclass)
        if issubclass(found, HallmarkError) and found is not HallmarkError
    ]
    # A class's docstring is its meaning.
    return [
        ExitCode(str(found.code), found.name, " ".join((inspect.getdoc(found) or "").split()))
        for found in sorted(classes, key=lambda found: found.code)
    ]
