"""Notes on an error which library was called, or the system, to do what, and with which file.

Whoever runs the step turns that into a message, by :func:`forge.core.libraries.telling`. No message
is worded here, so that a new wording does not change the key of a step that uses this module.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from forge.core.errors import HallmarkError

# Among the attributes of an error.
_NOTE = "hallmark_call"


@dataclass(frozen=True, kw_only=True)
class Call:
    """A call of a library, as people name it; `what` it was asked to do, and to which file."""

    library: str
    kind: type[HallmarkError]
    what: str


@contextmanager
def calling(library: str, kind: type[HallmarkError], what: str) -> Iterator[None]:
    """Notes on what is raised within that this library was called.

    Calls may lie within one another. The innermost is noted.
    """
    try:
        yield
    except BaseException as error:
        vars(error).setdefault(_NOTE, Call(library=library, kind=kind, what=what))
        raise


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors within that name no file are about this one: of an open file, the system names none.

    Raises:
        OSError: as it came, with a name.
    """
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def call_of(error: BaseException) -> Call | None:
    """The call that an error arose in, if it arose in one."""
    call: Call | None = vars(error).get(_NOTE)
    return call
