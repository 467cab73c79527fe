"""A folder is placed whole: after kills, refusals and beside others, the old or the new is there.

The kills are real: a forked child ends itself with SIGKILL before one of the calls by which files
are changed, each in turn. Refusals are injected into the same calls, in `os`.
"""

import errno
import os
import platform
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from forge.core import console, placing
from forge.core.placing import exchange, locked, put

CALLS = ("mkdir", "link", "fsync", "rename", "unlink", "rmdir", "open")
MANY = 200


@pytest.fixture(params=["exchanged", "renamed"])
def way(request, monkeypatch):
    """Both ways to replace a folder; the second is taken where there is no exchange."""
    if request.param == "renamed":
        monkeypatch.setattr(placing, "exchange", lambda *_: False)
    return request.param


def write(text):
    def fill(folder):
        (folder / "a").write_text(text, encoding="utf-8")
        (folder / "deep").mkdir()
        os.link(folder / "a", folder / "deep" / "b")

    return fill


def place(target, text):
    with locked(target):
        put(target, write(text))


def content(target):
    """The text of the one that is there, which must be whole."""
    assert sorted(path.relative_to(target).as_posix() for path in target.rglob("*")) == [
        "a",
        "deep",
        "deep/b",
    ]
    assert (target / "a").read_text(encoding="utf-8") == (target / "deep/b").read_text(
        encoding="utf-8"
    )
    return (target / "a").read_text(encoding="utf-8")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@contextmanager
def before(monkeypatch, number, act):
    """Acts before call `number` of those that change files."""
    calls = iter(range(MANY))

    def counted(call):
        def one(*arguments, **named):
            if next(calls) == number:
                act()
            return call(*arguments, **named)

        return one

    with monkeypatch.context() as patched:
        for name in CALLS:
            patched.setattr(os, name, counted(getattr(os, name)))
        patched.setattr(placing, "exchange", counted(placing.exchange))
        yield


def killed(monkeypatch, number, work):
    """Whether a child that works was killed before call `number`, which it may not reach."""
    child = os.fork()
    if child == 0:
        try:
            with before(monkeypatch, number, lambda: os.kill(os.getpid(), signal.SIGKILL)):
                work()
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) in {0, -signal.SIGKILL}
    return os.WIFSIGNALED(status)


@pytest.mark.usefixtures("way")
def test_placed_and_replaced(tmp_path):
    for text in ("old", "new"):
        place(tmp_path / "below" / "out", text)
        assert content(tmp_path / "below" / "out") == text
        assert names(tmp_path / "below") == ["out"]


def test_killed_anywhere(tmp_path, monkeypatch, way):
    """The old or the new one is there, after the next run always; it leaves nothing beside."""
    target = tmp_path / "out"
    place(target, "old")
    number = 0
    while killed(monkeypatch, number, lambda: place(target, "new")):
        if way == "exchanged":
            assert content(target) in {"old", "new"}
        with locked(target):
            assert content(target) in {"old", "new"}
        assert names(tmp_path) == ["out"]
        place(target, "old")
        number += 1
    assert content(target) == "new"
    assert 15 < number < MANY


@pytest.mark.usefixtures("way")
def test_killed_anywhere_while_there_is_none(tmp_path, monkeypatch):
    target = tmp_path / "out"
    number = 0
    while killed(monkeypatch, number, lambda: place(target, "new")):
        with locked(target):
            assert not target.exists() or content(target) == "new"
        assert set(names(tmp_path)) <= {"out"}
        if target.exists():
            subprocess.run(["rm", "-r", target], check=True)
        number += 1
    assert content(target) == "new"
    assert 10 < number < MANY


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("name", ["ENOSPC", "EIO", "EACCES", "EROFS", "EMFILE"])
def test_refused_anywhere(tmp_path, monkeypatch, name):
    """One refusal, before each call: what was there stays or is replaced, and nothing is beside."""
    target, code = tmp_path / "out", getattr(errno, name)

    def refuse():
        raise OSError(code, os.strerror(code))

    refusals = 0
    for number in range(60):
        place(target, "old")
        try:
            with before(monkeypatch, number, refuse):
                place(target, "new")
        except OSError as error:
            refusals += error.errno == code
        with locked(target):
            assert content(target) in {"old", "new"}
        assert names(tmp_path) == ["out"]
    assert refusals > 10


def test_exchange(tmp_path):
    """The real call, on the file system of these tests; False would be one that has none."""
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    if exchange(tmp_path / "one", tmp_path / "other"):
        assert names(tmp_path / "one") == ["other"]
        assert names(tmp_path / "other") == ["one"]
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}/none.*{tmp_path}/other"):
        exchange(tmp_path / "none", tmp_path / "other")


PLACES = """
import sys
from pathlib import Path
from forge.core.placing import locked, put
def fill(folder):
    print("fills", flush=True)
    sys.stdin.readline()
    (folder / "file").write_text(sys.argv[2])
with locked(Path(sys.argv[1])):
    put(Path(sys.argv[1]), fill)
"""


def test_two_processes_place_one_after_the_other(tmp_path):
    """The second says for whom it waits; the one that is killed lets it go on."""
    target = tmp_path / "out"

    def start(text):
        return subprocess.Popen(
            [sys.executable, "-c", PLACES, target, text],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8",
        )  # fmt: skip

    with start("first") as first:
        assert first.stdout.readline() == "fills\n"
        second = start("second")
        said = (
            f"{target}: waiting for process {first.pid} on {platform.node()}, which has it since "
        )
        assert second.stderr.readline().startswith(said)
        first.kill()
    with second:
        assert second.stdout.readline() == "fills\n"
        second.communicate("go on\n", timeout=30)
    assert (target / "file").read_text(encoding="utf-8") == "second"
    assert names(tmp_path) == ["out"]


def test_what_cannot_be_removed_is_named(tmp_path, monkeypatch):
    """The new one is in place all the same. Injected into `os.rmdir`."""
    target, said = tmp_path / "out", []
    place(target, "old")
    with monkeypatch.context() as patched:
        patched.setattr(console, "say", said.append)
        patched.setattr(os, "rmdir", refused)
        place(target, "new")
    assert content(target) == "new"
    assert f"{tmp_path}/.out.new: cannot be removed" in said[0]
    place(target, "third")
    assert names(tmp_path) == ["out"]


def refused(path, **_):
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


@pytest.mark.parametrize(
    ("below", "error"), [("file/out", NotADirectoryError), ("file/deep/out", NotADirectoryError)]
)
def test_below_a_file(tmp_path, below, error):
    (tmp_path / "file").touch()
    with pytest.raises(error, match="Not a directory"), locked(tmp_path / below):
        pass


def test_in_a_folder_of_the_kernel():
    with pytest.raises(FileNotFoundError), locked(Path("/proc/hallmark/out")):
        pass
