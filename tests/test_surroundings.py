"""Commands answer alike in any locale, with any umask or variable, and with any standard streams.

`tests/test_pipeline.py` has the same for whole rehearsals.
"""

import os
import subprocess
import sys

import pytest

from forge.core.errors import FileSystemError, RecipeError
from forge.core.surroundings import UNREAD

PLAIN = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}
# A locale of ASCII, without what Python does about it by itself.
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def run(shell, *, code=0, **env):
    """Runs a shell's command line, in which `forge` is the command; its output and errors."""
    forge = f"forge() {{ '{sys.executable}' -m forge \"$@\"; }}; {shell}"
    done = subprocess.run(
        ["bash", "-c", forge], env={**PLAIN, **env}, capture_output=True, check=False
    )
    said = done.stderr.decode("ascii", errors="backslashreplace")
    assert done.returncode == code, said
    assert "Traceback" not in said
    assert "Exception ignored" not in said
    return done.stdout.decode(), said


@pytest.fixture(scope="module")
def listed():
    return run("forge list")


@pytest.mark.parametrize(
    ("before", "env"),
    [
        ("", ASCII | {"PYTHONOPTIMIZE": "2", "PYTHONWARNINGS": "error", "TZ": "No/Such"}),
        ("umask 077; unset PATH HOME;", {"PYTHONIOENCODING": "ascii", "TMPDIR": "/nonexistent"}),
    ],
)
def test_same_answer(listed, before, env):
    assert run(f"{before} forge list", **env) == listed


def test_names_that_an_encoding_lacks():
    """A line with what it has, and no error about the line."""
    _, said = run(
        "forge build 'ü[red]:smile:' --rehearse", code=RecipeError.code, PYTHONIOENCODING="ascii"
    )
    assert said.startswith(r"error: no variant '\xfc[red]:smile:'")


def test_store_whose_name_is_not_utf8(tmp_path):
    """Before any work: the documents of a build could not state it."""
    _, said = run(
        "forge build qwen36-27b-vlm-mtp --rehearse --store \"$STORE\"$'\\xff'",
        code=FileSystemError.code,
        STORE=str(tmp_path / "store"),
    )
    assert said.startswith(f"error: {tmp_path / 'store'}\\udcff: the name is not UTF-8")
    assert list(tmp_path.iterdir()) == []


def test_help_in_ascii():
    printed, _ = run("forge build --help", PYTHONIOENCODING="ascii", **ASCII)
    assert printed.isascii()
    assert "--rehearse" in printed


# More than one write takes, so that the first fails while the command runs.
UNWRITTEN = "error: what this command prints cannot be written: No space left on device.\n"


@pytest.mark.parametrize(
    ("shell", "code", "end"),
    [
        ("forge list <&- >&-", 0, ""),
        ("forge list 2>&1 >/dev/full", FileSystemError.code, ""),
        ("forge list >/dev/full", FileSystemError.code, "exit 17\n"),
        ("forge exit-codes >/dev/full", FileSystemError.code, f"{UNWRITTEN}hallmark: exit 17\n"),
        ("forge lock nonesuch 2>/dev/full", RecipeError.code, ""),
        ("forge lock nonesuch 2>&-", RecipeError.code, ""),
        # The reader has gone before anything is written, so it is no race.
        ("{ sleep 0.3; forge list; echo $? >&2; } | exec <&-", 0, f"{UNREAD}\n"),
    ],
)
def test_standard_streams(shell, code, end):
    """Closed, full, or read by nobody: a code, at most a line, and nothing elsewhere."""
    printed, said = run(shell, code=code)
    assert said.endswith(end)
    assert len(said.splitlines()) <= 2
    if "2>&-" in shell:
        assert printed == ""
