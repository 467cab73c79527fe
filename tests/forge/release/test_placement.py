"""A build is placed whole or not at all."""

import dataclasses
import errno
import os
import re
import shutil
from pathlib import Path

import pytest
from mounting import with_mounted
from placed import attested, files

from forge import driver
from forge.core import disk
from forge.core.errors import FileSystemError, SpaceError, StoreError
from forge.release.folder import changing
from forge.release.placement import look, place, require_apart


@pytest.fixture
def results(built):
    return attested(built)


def test_publishes_checkpoint_and_provenance(results, tmp_path):
    target = tmp_path / "dist" / "variant"
    place(results, target)
    assert files(target) == {*results["dress"].digests, "provenance/provenance.json"}


def test_second_time_does_nothing(results, tmp_path):
    target = tmp_path / "dist" / "variant"
    place(results, target)
    before = target.stat().st_ino
    place(results, target)
    assert before == target.stat().st_ino


def test_replaces_an_edited_build(results, tmp_path):
    target = tmp_path / "dist" / "variant"
    place(results, target)
    (target / "config.json").unlink()
    place(results, target)
    assert files(target) == {*results["dress"].digests, "provenance/provenance.json"}
    assert [path.name for path in target.parent.iterdir()] == ["variant"]


def test_the_root_is_refused_unread(results, monkeypatch):
    """Nothing walks the file system."""
    monkeypatch.setattr(Path, "rglob", None)
    for act in (look, lambda target: place(results, target)):
        with pytest.raises(StoreError, match="^/: is the root of the file system"):
            act(Path("/"))


def test_a_place_is_looked_at_before_the_build(results, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        look(tmp_path / "file" / "out")
    with pytest.raises(StoreError, match="is no earlier build"):
        look(tmp_path / "file")
    with pytest.raises(FileNotFoundError):
        look(Path("/proc/hallmark/out"))
    assert look(tmp_path / "out").statement is None
    place(results, tmp_path / "out")
    assert look(tmp_path / "out").statement == results["attest"].digests["provenance.json"]
    assert sorted(path.name for path in tmp_path.glob("*out*")) == ["out"]


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("store", "lies in the store"),
        ("store/tmp/out", "lies in the store"),
        ("store/quantize/x", "lies in the store"),
        ("link/locks/out", "lies in the store"),
        (".", "holds the store"),
        ("base", "is the base"),
        ("of", "holds the mirror"),
        ("loop", "Too many levels of symbolic links"),
    ],
)
def test_a_place_apart_from_what_a_build_needs(built, tmp_path, out, said):
    """Told before any work, and nothing is made; elsewhere in the same folder it may lie."""
    job = dataclasses.replace(built.job, base=tmp_path / "base", mirror=tmp_path / "of" / "mirror")
    for folder in (job.base, job.mirror):
        folder.mkdir(parents=True)
    (tmp_path / "link").symlink_to(job.store.root)
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "store-2").mkdir()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises((StoreError, OSError), match=said) as refused:
        driver.build(job, tmp_path / out, None, replace=True)
    if out != "loop":
        assert refused.value.remedy == "no-place"
    assert sorted(tmp_path.rglob("*")) == before
    require_apart(tmp_path / "store-2" / "out", job)


def test_a_folder_that_something_is_mounted_in(built, tmp_path):
    """Refused before a build begins, and before anything is placed or changed."""
    target, mine = tmp_path / "out", tmp_path / "mine"
    place(attested(built), target)
    mine.mkdir()
    (mine / "data").touch()
    (target / "data").mkdir()
    before = files(target)

    def refuse():
        said = f"{target}/data: is a mount point in {target}, and what is mounted there would be "
        with pytest.raises(OSError, match="is a mount point in"):
            look(target)
        with pytest.raises(FileSystemError, match=said):
            place(attested(built, "standin:y"), target, replace=True)
        with pytest.raises(FileSystemError, match=said), changing(target, "is not signed"):
            pass

    with_mounted({target / "data": mine}, refuse)
    assert (before, files(mine)) == (files(target), {"data"})


def test_two_builders_at_one_folder(built, tmp_path):
    """Both looked before the other was done: the same result is there, another one is refused."""
    target = tmp_path / "out"
    found = look(target)
    place(attested(built), target, found=found)
    place(attested(built), target, found=found)
    other = attested(built, "standin:y")
    for replace in (False, True):
        with pytest.raises(StoreError, match="another build, with another result, was placed"):
            place(other, target, replace=replace, found=found)
    place(other, target, found=look(target))
    assert look(target).statement == other["attest"].digests["provenance.json"]


@pytest.mark.parametrize("name", ["ENOSPC", "EDQUOT", "EIO", "EROFS", "EACCES"])
def test_a_refusal_leaves_what_was_there(built, tmp_path, monkeypatch, name):
    """Injected into `os.link`; where another file system is needed, so is the room."""
    target, code = tmp_path / "out", getattr(errno, name)
    place(attested(built), target)
    before = look(target)

    def refuse(source, there):
        raise OSError(code, os.strerror(code), str(source), None, str(there))

    with monkeypatch.context() as patched:
        patched.setattr(os, "link", refuse)
        with pytest.raises(FileSystemError, match="out is not placed: ") as refused:
            place(attested(built, "standin:y"), target)
    assert ("The disk is full" in str(refused.value)) == (name in {"ENOSPC", "EDQUOT"})
    assert refused.value.facts["reason"] == os.strerror(code)
    assert look(target) == before
    assert sorted(path.name for path in tmp_path.glob("*out*")) == ["out"]
    place(attested(built, "standin:y"), target)


SHM = Path("/dev/shm")  # noqa: S108


@pytest.fixture
def elsewhere(tmp_path):
    """A place for a folder on another file system than the store's, which is empty afterwards."""
    if not SHM.is_dir() or SHM.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second file system to copy to")
    target = SHM / f"hallmark-{os.getpid()}" / "out"
    target.parent.mkdir()
    yield target
    target.parent.rmdir()


def test_room_for_a_copy_is_asked_for_before_it_is_begun(results, elsewhere, monkeypatch):
    """Only where the store is on another file system; a link takes none."""
    sources = [results["dress"], results["attest"]]
    paths = [result.files / path for result in sources for path in result.digests]
    needed = sum(path.stat().st_size for path in paths)
    monkeypatch.setattr(disk, "free", lambda _: needed - 1)
    wanted = f"takes {needed / 1e6:.3f} MB, and {(needed - 1) / 1e6:.3f} MB are free"
    with pytest.raises(SpaceError, match=f"^a copy at {elsewhere} {wanted} at {elsewhere.parent}"):
        place(results, elsewhere)
    assert list(elsewhere.parent.iterdir()) == []
    monkeypatch.setattr(disk, "free", lambda _: needed)
    place(results, elsewhere)
    assert files(elsewhere) == {*results["dress"].digests, "provenance/provenance.json"}
    shutil.rmtree(elsewhere)


def test_a_link_takes_no_room(results, tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "free", lambda _: 0)
    place(results, tmp_path / "out")


def test_a_full_disk_tells_what_is_needed(results, elsewhere, monkeypatch):
    """Copied for real to another file system, whose fsync is refused."""

    def refuse(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", refuse)
        with pytest.raises(FileSystemError) as refused:
            place(results, elsewhere)
    said = r"The disk is full: [\d.]+ [GM]B are free at /dev/shm/.*, [\d.]+ MB are needed\."
    assert re.search(said, str(refused.value))
    assert list(elsewhere.parent.iterdir()) == []
