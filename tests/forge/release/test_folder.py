"""Publishing replaces an earlier build whole, and nothing that is not one."""

import dataclasses
import errno
import os
import re
import shutil
from pathlib import Path

import pytest
from documents import manifest
from mounting import with_mounted

from forge import driver
from forge.core import console, disk
from forge.core.errors import FetchError, FileSystemError, SpaceError, StoreError
from forge.core.store import Store
from forge.manifest import sums
from forge.manifest.names import ADDED, DOCUMENTS, SIGNATURES
from forge.release.folder import changing, job_of, look, place, require_apart


def attested(built, source="standin:x", level="structure", *, listed=False):
    """The results of a build with another manifest, by what it was made from and how verified.

    They have a `SHA256SUMS` of the checkpoint if it is to be `listed`.
    """
    stated = manifest(built.job.recipe.name, source).encoded()
    stated = stated.replace(b'"verified":"structure"', f'"verified":"{level}"'.encode())

    def write(out):
        (out / "provenance.json").write_bytes(stated)
        if listed:
            sums.write(out / "SHA256SUMS", built.results["dress"].digests)

    kept, key = built.job.store, f"{source} {level} {listed}"
    found = kept.get("attest", key) or kept.make("attest", key, write, {})
    return {**built.results, "attest": found}


@pytest.fixture
def results(built):
    return attested(built)


@pytest.fixture
def said(monkeypatch):
    """What is said from now on."""
    lines = []
    monkeypatch.setattr(console, "say", lines.append)
    return lines


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


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


def test_a_release_is_not_undone(results, tmp_path):
    """Documents, list and signatures stay, and the files that a release made its own."""
    target = tmp_path / "dist" / "variant"
    place(results, target)
    for name in ADDED:
        (target / name).write_text(name, encoding="utf-8")
    for path in [path for path in target.rglob("*") if path.is_file()]:
        own = shutil.copy2(path, tmp_path / "own")
        path.unlink()
        own.rename(path)
    before = files(target)
    assert before == {*results["dress"].digests, "provenance/provenance.json", *ADDED}
    place(results, target)
    assert before == files(target)
    (target / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(StoreError, match="is signed"):
        place(results, target)
    assert before == files(target)
    place(results, target, replace=True)
    assert files(target) == {*results["dress"].digests, "provenance/provenance.json"}


@pytest.mark.parametrize("source", ["standin:x", "standin:y"])
def test_an_edited_file_is_not_replaced(built, tmp_path, source):
    """By the same build or by another; it is named. A file that is the same again is none."""
    target = tmp_path / "out"
    place(attested(built, listed=True), target)
    config, after = target / "config.json", attested(built, source, listed=True)
    same = config.read_bytes()
    for edit in (
        lambda: config.write_text("{}", encoding="utf-8"),
        lambda: config.symlink_to("elsewhere"),
    ):
        config.unlink()
        edit()
        with pytest.raises(StoreError, match=r"changed since \(config\.json\), so") as refused:
            place(after, target)
        assert refused.value.remedy == "replace"
        assert config.is_symlink() or config.read_bytes() == b"{}"
    config.unlink()
    config.write_bytes(same)
    place(after, target)
    assert config.samefile(after["dress"].files / "config.json")
    config.unlink()
    config.write_text("{}", encoding="utf-8")
    place(after, target, replace=True)
    assert config.read_bytes() == same


def test_never_replaces_a_foreign_folder(results, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("x", encoding="utf-8")
    with pytest.raises(StoreError, match="is no earlier build, so it is not replaced"):
        place(results, tmp_path / "home")
    assert files(tmp_path / "home") == {"thesis.txt"}


def test_an_empty_folder_is_taken(results, tmp_path):
    (tmp_path / "out").mkdir()
    place(results, tmp_path / "out")
    assert "config.json" in files(tmp_path / "out")


@pytest.mark.parametrize("name", SIGNATURES)
def test_a_signed_release_is_not_replaced(built, tmp_path, name):
    """Unless that is said; the error names the signatures that would be lost."""
    target = tmp_path / "out"
    place(attested(built), target)
    (target / name).write_text("signature", encoding="utf-8")
    before = files(target)
    with pytest.raises(StoreError, match=rf"out: is signed \({name}\), so") as refused:
        place(attested(built, "standin:y"), target)
    assert (refused.value.remedy, refused.value.facts) == ("replace", {"folder": target})
    assert before == files(target)
    place(attested(built, "standin:y"), target, replace=True)
    assert name not in files(target)


def test_files_that_are_not_a_builds_are_not_replaced(built, tmp_path):
    """Those that a release adds are; of many, the error names some and counts the rest."""
    target = tmp_path / "out"
    place(attested(built), target)
    for name in (*DOCUMENTS, *"123456", "provenance/notes"):
        (target / name).write_text(name, encoding="utf-8")
    (target / "0").symlink_to("nowhere")
    said = r"has files that are not a build's \(0, 1, 2, 3, 4 and 3 more\)"
    with pytest.raises(StoreError, match=said):
        place(attested(built, "standin:y"), target)
    assert (target / "provenance/notes").read_text(encoding="utf-8") == "provenance/notes"
    place(attested(built, "standin:y"), target, replace=True)
    assert not {"0", "1", "README.md"} & files(target)


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [("all", "structure", True), ("all", "none", True), ("none", "all", False)],
)
def test_a_build_that_is_verified_less_is_told(built, said, before, after, told):
    target = built.job.store.root.with_name("out")
    place(attested(built, level=before), target)
    place(attested(built, level=after), target)
    line = f"was verified further ({before!r}) than what replaces it ({after!r})"
    assert any(line in one for one in said) == told


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


def test_job_of_a_release(results, tmp_path):
    place(results, tmp_path / "dist")
    job = job_of(tmp_path / "dist", Store(tmp_path / "store"), None, None)
    assert (job.recipe.name, job.rehearsal) == ("qwen36-27b-vlm-mtp", True)


def test_folder_without_manifest(tmp_path):
    with pytest.raises(FetchError, match=r"has no provenance/provenance\.json"):
        job_of(tmp_path, Store(tmp_path), None, None)
