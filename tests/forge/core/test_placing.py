"""A folder is placed whole: after kills, refusals and beside others, the old or the new is there.

A file is, too. Kills and refusals at every call are those of `tests/faults/pieces.py`.
"""

import errno
import os
import platform
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from conftest import names, refusing
from mounting import mount, mount_overlay, with_mounted

from forge.core import console, placing
from forge.core.errors import FileSystemError
from forge.core.placing import exchange, keep, locked, names_of, put, scratch

REFUSALS = ("ENOSPC", "EIO", "EACCES", "EROFS", "EMFILE")


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


@pytest.mark.usefixtures("way")
def test_placed_and_replaced(tmp_path):
    for text in ("old", "new"):
        place(tmp_path / "below" / "out", text)
        assert content(tmp_path / "below" / "out") == text
        assert names(tmp_path / "below") == ["out"]


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
    assert f"{tmp_path}/.out.hallmark-new: cannot be removed" in said[0]
    place(target, "third")
    assert names(tmp_path) == ["out"]


def test_a_link_that_leads_back_to_itself(tmp_path):
    path = tmp_path / "loop"
    path.symlink_to("loop")
    for work in (placing.clear, lambda path: placing.write(path, NEW)):
        with pytest.raises(FileSystemError, match=f"{path}: Too many levels of symbolic links"):
            work(path)
    assert names(tmp_path) == ["loop"]


USERS = [f".{name}.{kind}" for name in ("out", "file") for kind in ("new", "old", "lock")]


def test_files_of_a_user_beside_it_are_left(tmp_path):
    """Whatever they are called, short of names that are Hallmark's own."""
    for name in USERS:
        (tmp_path / name).write_text(name, encoding="utf-8")
    for text in ("old", "new"):
        place(tmp_path / "out", text)
        placing.write(tmp_path / "file", NEW)
        placing.clear(tmp_path / "file")
    assert names(tmp_path) == sorted([*USERS, "file", "out"])
    assert [(tmp_path / name).read_text(encoding="utf-8") for name in USERS] == USERS


def test_a_file_has_no_old_one_beside_it(tmp_path):
    """What lies there is nothing that was put aside, and becomes no file of that name."""
    old = tmp_path / ".file.hallmark-old"
    old.write_text("old", encoding="utf-8")
    placing.clear(tmp_path / "file")
    with scratch(tmp_path / "file"):
        pass
    assert names(tmp_path) == [old.name]
    placing.write(tmp_path / "file", NEW)
    assert names(tmp_path) == [old.name, "file"]


@pytest.fixture
def aside(tmp_path):
    """A folder `out` that a killed process put aside, between the two renames that replace it."""
    target = tmp_path / "out"
    place(target, "old")
    place(tmp_path / ".out.hallmark-new", "new")
    target.rename(tmp_path / ".out.hallmark-old")
    (tmp_path / ".out.hallmark-lock").touch()
    return target


def test_what_was_put_aside_takes_the_place_of_an_empty_folder(aside):
    """Such as one made by hand."""
    aside.mkdir()
    with locked(aside):
        assert content(aside) == "old"
    assert names(aside.parent) == ["out"]


def test_what_was_put_aside_is_not_given_up_for_anything_else(aside):
    """Both are named and nothing is touched; with either moved away, it goes on."""
    old = aside.with_name(".out.hallmark-old")
    aside.mkdir()
    write("by hand")(aside)
    said = f"^{aside}: stands where {old} belongs"
    with pytest.raises(FileSystemError, match=said), locked(aside):
        pass
    subprocess.run(["rm", "-r", aside.with_name(".out.hallmark-new")], check=True)
    with pytest.raises(FileSystemError, match=said), locked(aside, lambda _: False):
        pass
    assert (content(aside), content(old)) == ("by hand", "old")
    aside.rename(aside.with_name("mine"))
    with locked(aside):
        assert content(aside) == "old"
    assert names(aside.parent) == ["mine", "out"]


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


def test_the_owner_of_the_old_folder_stays(tmp_path):
    """Where root places a folder for somebody else; for others, of a group that they are in."""
    target = tmp_path / "out"
    place(target, "old")
    owner = (4711, 4712) if os.geteuid() == 0 else (os.getuid(), max(os.getgroups()))
    os.chown(target, *owner)
    place(target, "new")
    for folder in (target, target / "deep"):
        assert (folder.stat().st_uid, folder.stat().st_gid) == owner


def test_a_folder_that_may_not_be_changed_is_not(tmp_path, monkeypatch):
    """Injected into `os.access`, since root may change all."""
    target = tmp_path / "out"
    place(target, "old")
    with monkeypatch.context() as patched:
        patched.setattr(os, "access", lambda *_: False)
        with pytest.raises(PermissionError, match="out"):
            place(target, "new")
    assert (content(target), names(tmp_path)) == ("old", ["out"])


@pytest.mark.parametrize(
    ("below", "told"), [("", True), ("deep", True), ("..", False), (None, False)]
)
def test_whoever_is_in_the_folder_is_told(tmp_path, monkeypatch, below, told):
    """Also from a folder that is gone, where that cannot be known."""
    target, said = tmp_path / "out", []
    place(target, "old")
    here = tmp_path / "gone" if below is None else target / below
    here.mkdir(exist_ok=True)
    monkeypatch.chdir(here)
    if below is None:
        here.rmdir()
    monkeypatch.setattr(console, "say", said.append)
    place(target, "new")
    assert said == [f"{target} is a new folder now. Change to it again to see it."] * told
    assert content(target) == "new"


@pytest.mark.parametrize("below", ["", "deep"])
def test_a_folder_that_something_is_mounted_at_or_in(tmp_path, below):
    """A folder of the same file system, as it may be; neither is touched, and nothing is made."""
    target, mine = tmp_path / "out", tmp_path / "mine"
    place(target, "old")
    place(mine, "mine")

    def refuse():
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(OSError, match="is a mount point.*[Uu]nmount it.*out") as refused:
            place(target, "new")
        assert refused.value.filename == str(target / below)
        assert sorted(tmp_path.rglob("*")) == before

    with_mounted({target / below: mine}, refuse)
    assert (content(target), content(mine), names(tmp_path)) == ("old", "mine", ["mine", "out"])


def test_a_file_that_something_is_mounted_at(tmp_path):
    path, mine = tmp_path / "file", tmp_path / "mine"
    for one in (path, mine):
        placing.write(one, OLD)

    def refuse():
        with pytest.raises(FileSystemError, match=f"{path} is not written: {path}: is a mount"):
            placing.write(path, NEW)

    with_mounted({path: mine}, refuse)
    assert (mine.read_bytes(), names(tmp_path)) == (OLD, ["file", "mine"])


def test_what_is_mounted_while_a_folder_is_filled(tmp_path):
    """The old folder is there, and the new one is removed."""
    target, mine = tmp_path / "out", tmp_path / "mine"
    place(target, "old")
    place(mine, "mine")

    def fill(folder):
        write("new")(folder)
        mount(mine, target / "deep")

    def refuse():
        with locked(target), pytest.raises(OSError, match="is a mount point in"):
            put(target, fill)

    with_mounted({}, refuse)
    assert (content(target), content(mine), names(tmp_path)) == ("old", "mine", ["mine", "out"])


def test_what_is_mounted_in_a_leftover_is_not_removed_with_it(tmp_path):
    """It is named, and goes when nothing is mounted any more."""
    target, left, mine = tmp_path / "out", tmp_path / ".out.hallmark-new", tmp_path / "mine"
    place(mine, "mine")
    (left / "deep").mkdir(parents=True)

    def leave():
        said = []
        console.say = said.append
        with locked(target):
            pass
        assert said == [
            f"{left}: cannot be removed: {left}/deep: is a mount point in {left}, and what is "
            "mounted there would be removed with that. Unmount it"
        ]

    with_mounted({left / "deep": mine}, leave)
    assert (content(mine), names(tmp_path)) == ("mine", [left.name, "mine"])
    with locked(target):
        pass
    assert names(tmp_path) == ["mine"]


@pytest.mark.usefixtures("way")
def test_a_folder_of_an_image_is_refused_with_what_to_do(tmp_path):
    """It lies in the lower layer of an overlay; what is told makes it one that can be replaced."""
    lower, upper, work, point = (tmp_path / name for name in ("low", "up", "work", "it's here"))
    for folder in (lower, upper, work, point):
        folder.mkdir()
    place(lower / "out", "of the image")

    def within():
        mount_overlay(point, lower, upper, work)
        target = point / "out"
        with pytest.raises(FileSystemError, match="a lower layer of an overlay") as refused:
            place(target, "new")
        assert content(target) == "of the image"
        assert names(point) == ["out"]
        command = str(refused.value).rpartition(": ")[2]
        subprocess.run(["sh", "-c", command], check=True)
        place(target, "new")
        assert content(target) == "new"
        assert names(point) == ["out"]
        place(point / "other", "beside it")

    with_mounted({}, within)
    assert content(lower / "out") == "of the image"


def test_files_that_are_kept(tmp_path, monkeypatch):
    """They have another name for a moment, which is not counted; or are copied, without links."""
    target = tmp_path / "out"
    place(target, "old")
    (target / "deep" / "b").unlink()
    (target / "deep" / "b").write_text("b", encoding="utf-8")
    counts = []

    def fill(folder):
        keep(["a", "deep/b"], target, folder)
        for name in ("a", "deep/b"):
            with (target / name).open("rb") as file:
                counts.append(
                    (os.fstat(file.fileno()).st_nlink, names_of(target, name, file.fileno()))
                )

    inodes = [(target / name).stat().st_ino for name in ("a", "deep/b")]
    with locked(target):
        put(target, fill)
    assert counts == [(2, 1), (2, 1)]
    assert inodes == [(target / name).stat().st_ino for name in ("a", "deep/b")]
    os.link(target / "a", tmp_path / "c")
    with (target / "a").open("rb") as file:
        assert names_of(target, "a", file.fileno()) == 2
    (tmp_path / "c").unlink()
    with monkeypatch.context() as patched:
        patched.setattr(os, "link", refusing(errno.EPERM))
        counts.clear()
        with locked(target):
            put(target, fill)
    assert counts == [(1, 1), (1, 1)]
    assert (target / "deep" / "b").read_text(encoding="utf-8") == "b"
    assert inodes[0] != (target / "a").stat().st_ino


OLD, NEW = b"old" * 5, b"new" * 50_000


@pytest.mark.parametrize("name", REFUSALS)
def test_a_file_refused(tmp_path, monkeypatch, name):
    """One line says which file is not written, and on a full disk how much is needed."""
    path, code = tmp_path / "file", getattr(errno, name)
    placing.write(path, OLD)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", refusing(code))
        with pytest.raises(FileSystemError, match=f"^{path} is not written: ") as refused:
            placing.write(path, NEW)
    assert ("MB are needed" in str(refused.value)) == (name == "ENOSPC")
    assert (path.read_bytes(), names(tmp_path)) == (OLD, ["file"])


def test_a_file_keeps_its_permissions_and_links_to_it(tmp_path):
    path, to_it = tmp_path / "file", tmp_path / "link"
    placing.write(path, OLD, mode=0o600)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o640)
    to_it.symlink_to("file")
    placing.write(to_it, NEW)
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (NEW, 0o640)
    assert to_it.is_symlink()


def test_a_file_that_is_to_be_new(tmp_path, monkeypatch):
    """The second is a stranger's, who came in between; the third is where there are no links."""
    path = tmp_path / "file"
    placing.write(path, OLD)
    with pytest.raises(FileExistsError, match="file"):
        placing.write(path, NEW, new=True)
    with monkeypatch.context() as patched:
        patched.setattr(placing, "require_none", lambda _: None)
        with pytest.raises(FileExistsError, match="file"):
            placing.write(path, NEW, new=True)
    assert (path.read_bytes(), names(tmp_path)) == (OLD, ["file"])
    path.unlink()
    monkeypatch.setattr(os, "link", refusing(errno.EPERM))
    placing.write(path, NEW, new=True)
    assert (path.read_bytes(), names(tmp_path)) == (NEW, ["file"])


def test_what_is_no_file(tmp_path):
    """A pipe gets the bytes, a folder is refused."""
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=placing.write, args=(tmp_path / "pipe", NEW))
    writer.start()
    assert (tmp_path / "pipe").read_bytes() == NEW
    writer.join()
    assert (tmp_path / "pipe").is_fifo()
    with pytest.raises(FileSystemError, match="Is a directory"):
        placing.write(tmp_path, NEW)
