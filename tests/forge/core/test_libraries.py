"""What a library raises is one line of ours; what is ours or the system's keeps its own."""

import errno
import json
import traceback
from pathlib import Path

import pytest

from forge.core import boundary, libraries
from forge.core.errors import CalibrationError, FetchError
from forge.core.libraries import library


def told(work, **facts):
    """The error that the work ends with when a library is blamed for it."""
    with (
        pytest.raises(FetchError) as raised,
        library("json", FetchError, "x.json: cannot be read", **facts),
    ):
        work()
    return raised.value


def test_what_the_library_says_and_its_kind():
    error = told(lambda: json.loads("{"), remedy="wrong-base")
    begins = "x.json: cannot be read: json says: JSONDecodeError: Expecting property name"
    assert str(error).startswith(begins)
    assert error.remedy == "wrong-base"
    assert isinstance(error.__cause__, json.JSONDecodeError)


def test_debug_has_the_librarys_traceback():
    error = told(lambda: json.loads("{"))
    assert "json/decoder.py" in "".join(traceback.format_exception(error))


def raising(error):
    def work():
        raise error

    return work


def test_the_first_cause_is_told_unless_it_was():
    """Some libraries raise an excerpt of code, from the error that says what is wrong with it."""

    def work(outer):
        try:
            int("x")
        except ValueError as error:
            raise RuntimeError(outer) from error

    cause = "invalid literal for int() with base 10: 'x'"
    for outer, said in {
        "in line 3": f"in line 3 ({cause})",
        f"no: {cause}": f"no: {cause}",
    }.items():
        error = told(lambda outer=outer: work(outer))
        assert str(error) == f"x.json: cannot be read: json says: {said}"


class Panic(BaseException):
    """As a library in Rust panics."""


Panic.__name__ = "PanicException"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("one\ntwo"), "one"),
        (ValueError("\n  one\ntwo"), "one"),
        (RuntimeError("found this:\n\n   a is b\nmore"), "found this: a is b"),
        (OSError("no such model"), "no such model"),
        (ConnectionResetError(104, "reset"), "ConnectionResetError: [Errno 104] reset"),
        (ValueError(), "ValueError"),
        (MemoryError(), "MemoryError"),
        (Panic("index out of bounds"), "PanicException: index out of bounds"),
        (ValueError("x" * 501), "x" * 500 + " ..."),
    ],
)
def test_one_line_of_bounded_length(error, line):
    assert str(told(raising(error))) == f"x.json: cannot be read: json says: {line}"


@pytest.mark.parametrize(
    "error",
    [
        CalibrationError("ours"),
        FileNotFoundError(errno.ENOENT, "No such file", "/x"),
        OSError(errno.ENOSPC, "No space left on device"),
        KeyboardInterrupt(),
        SystemExit(143),
    ],
)
def test_what_is_passed_on(error):
    """Errors of ours and of files have a line of their own; nobody is kept from ending."""
    with pytest.raises(type(error)) as raised, library("json", FetchError, "x"):
        raise error
    assert raised.value is error


def test_a_call_is_noted_where_it_is_made_and_told_by_who_runs_it():
    """The innermost call; what passes without one is nobody's but who raised it."""
    with (
        pytest.raises(CalibrationError, match="inner: json says: JSONDecodeError") as told,
        libraries.telling(remedy="wrong-base"),
        boundary.calling("torch", FetchError, "outer"),
        boundary.calling("json", CalibrationError, "inner"),
    ):
        json.loads("{")
    assert told.value.remedy == "wrong-base"
    with pytest.raises(ValueError, match="Expecting"), libraries.telling():
        json.loads("{")
    raises = pytest.raises(ValueError, match="Expecting")
    with raises as raised, boundary.calling("json", FetchError, "x"):
        json.loads("{")
    assert boundary.call_of(raised.value).library == "json"


@pytest.mark.parametrize("module", ["forge.made_up", "assay", "__main__"])
def test_a_bug_of_ours_keeps_its_traceback(module):
    """Called back by the library as well; elsewhere such an error is the library's."""
    names = {"__name__": module, "json": json}
    exec("def pairs(found):\n return found[0][2]\n", names)  # noqa: S102 - a module of that name
    kind = FetchError if module == "__main__" else IndexError
    with pytest.raises(kind), library("json", FetchError, "x"):
        json.loads('{"a": 1}', object_pairs_hook=names["pairs"])


def test_what_a_library_raises_in_c_has_no_frame_of_it(tmp_path: Path):
    """So its kind decides: a wrong value is the library's, a wrong name is a bug."""
    names = {"__name__": "forge.made_up"}
    said = pytest.raises(FetchError, match="int says: invalid literal for int")
    with said, library("int", FetchError, "x"):
        exec("int('x')", names)  # noqa: S102
    with pytest.raises(NameError), library("int", FetchError, "x"):
        exec("itn('x')", names)  # noqa: S102
    assert libraries.said(OSError(errno.EIO, "Input/output error", str(tmp_path)))
