"""Where a library is called, or the system: which one, to do what, and what its failure is of.

A step notes this on whatever the library raises, and whoever runs the step has it told, by
:func:`forge.core.libraries.telling`. Nothing here words an error, so that a step whose key has this
module is not run again for a word.
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
