"""What a publisher's commands leave when they are killed or refused: the old state or the new one.

Kills and refusals at every call are those of `tests/faults`; here are those of one call.
"""

import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import names, refusing
from released import build, local_base

from assay.release import steps, trust, verify
from forge.core import console, disk, placing
from forge.core.errors import FileSystemError, HallmarkError, ReleaseError, SigningError, SpaceError
from forge.manifest.policy import KNOWN_BUILDERS, Policy
from forge.release import assemble, signing


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A build that is no release yet, its files shared with its store."""
    root = tmp_path_factory.mktemp("finished")
    build(root, local_base(root / "base"))
    return root / "release"


def content(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def is_own(folder):
    """Whether no file has another name, in the store or beside the folder."""
    return all(path.stat().st_nlink == 1 for path in folder.rglob("*") if path.is_file())


def verified(folder, key):
    trusted = trust.by_key(key.with_name(f"{key.name}.pub"))
    demands = steps.Demands(trust=trusted, policy=Policy(builders=KNOWN_BUILDERS))
    verify.verify(folder, demands, lambda _: None)


def test_refused_by_a_key(good, bench):
    """Bad keys leave the signatures of before, whatever was asked for."""
    before_, bad = content(bench.folder), bench.folder.with_name("bad")
    bad.write_text("no key", encoding="utf-8")
    bad.chmod(0o600)
    for model in (False, True):
        with pytest.raises(SigningError, match="is no private key"):
            signing.sign(bench.folder, bad, model_signature=model)
    assert before_ == content(bench.folder)
    verified(bench.folder, good.key)


def test_a_model_signature_that_fails(good, bench, monkeypatch):
    """The bundles that were made before are not there either."""
    before_ = content(bench.folder)
    monkeypatch.setattr(signing, "_sign_model", refusing(errno.EIO))
    with pytest.raises(FileSystemError, match="is not signed: .*Input/output error"):
        signing.sign(bench.folder, good.other_key, model_signature=True)
    assert before_ == content(bench.folder)
    assert names(bench.folder.parent) == ["release"]
    verified(bench.folder, good.key)


def test_a_library_that_passes_over_a_file(good, bench, monkeypatch):
    """What it signed is compared with the list of the release, and nothing is placed."""
    before_ = content(bench.folder)
    monkeypatch.setattr(signing, "of_model", lambda _: {"config.json": ""})
    with pytest.raises(SigningError, match="the model is not signed: NOTICE: model.sig is over"):
        signing.sign(bench.folder, good.other_key, model_signature=True)
    assert before_ == content(bench.folder)
    assert names(bench.folder.parent) == ["release"]


def test_a_walk_of_the_library_that_sees_nothing(good, bench, monkeypatch):
    """As it does of a folder that it may not read: what it signs is the list of the release."""
    monkeypatch.setattr(Path, "glob", lambda *_: iter(()))
    signing.sign(bench.folder, good.key, model_signature=True)
    monkeypatch.undo()
    assert "provenance/model.sig" in content(bench.folder)
    verified(bench.folder, good.key)


def test_verified_while_it_is_signed_again_and_again(good, bench):
    """Whoever reads has the one or the other: no mixture, no hard link, nothing that is missing."""
    child = os.fork()
    if child == 0:
        try:
            while True:
                signing.sign(bench.folder, good.key)
        finally:
            os._exit(1)
    try:
        replaced, inode = 0, bench.folder.stat().st_ino
        for _ in range(20):
            verified(bench.folder, good.key)
            replaced += inode != (inode := bench.folder.stat().st_ino)
        assert replaced > 2
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    verified(bench.folder, good.key)


def test_two_at_one_folder(finished, tmp_path):
    """Each waits for the other, and says so; the second finds the release of the first."""
    folder = shutil.copytree(finished, tmp_path / "out", copy_function=os.link)
    command_ = [sys.executable, "-m", "forge", "release", folder]
    with placing.locked(folder):
        both = [
            subprocess.Popen(command_, stderr=subprocess.PIPE, encoding="utf-8") for _ in range(2)
        ]
        waiting = [one.stderr.readline() for one in both]
    told = [one.communicate(timeout=60)[1] for one in both]
    assert all(one.startswith(f"{folder}: waiting for process {os.getpid()}") for one in waiting)
    assert all(f"{folder} is a release" in one for one in told)
    assert [one.returncode for one in both] == [0, 0]
    assert is_own(folder)
    assert names(tmp_path) == ["out"]


def test_a_folder_that_is_not_there(tmp_path):
    """Nothing is made on the way."""
    for work in (assemble.assemble, lambda folder: signing.sign(folder, None)):
        with pytest.raises(HallmarkError):
            work(tmp_path / "none" / "deep")
    assert names(tmp_path) == []


def test_by_a_link_and_from_within(good, bench, monkeypatch):
    """The link stays one; whoever is in the folder is told that it is another now."""
    said = []
    link = bench.folder.with_name("link")
    link.symlink_to("release")
    monkeypatch.setattr(console, "say", said.append)
    signing.sign(link, good.other_key)
    assert link.is_symlink()
    verified(bench.folder, good.other_key)
    assert len(said) == 1
    monkeypatch.chdir(bench.folder)
    signing.sign(Path(), good.key)
    assert said[1] == f"{bench.folder} is a new folder now. Change to it again to see it."
    verified(bench.folder, good.key)


def test_what_is_needed_is_told(finished, tmp_path, monkeypatch):
    folder = shutil.copytree(finished, tmp_path / "out", copy_function=os.link)
    monkeypatch.setattr(os, "fsync", refusing(errno.ENOSPC))
    with pytest.raises(FileSystemError, match="is not made a release: .*full.*MB are needed"):
        assemble.assemble(folder)


def test_room_for_the_copies_is_asked_for(finished, tmp_path, monkeypatch):
    """Of what the store has as well; a release has its own files, and takes no room."""
    folder = shutil.copytree(finished, tmp_path / "out", copy_function=os.link)
    needed = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    before_ = content(folder)
    monkeypatch.setattr(disk, "free", lambda _: needed - 1)
    wanted = f"shares with the store takes {needed / 1e6:.3f} MB, and {(needed - 1) / 1e6:.3f} MB"
    with pytest.raises(SpaceError, match=f"^a copy of what {folder} {wanted} are free at"):
        assemble.assemble(folder)
    assert before_ == content(folder)
    assert names(tmp_path) == ["out"]

    monkeypatch.setattr(disk, "free", lambda _: needed)
    assemble.assemble(folder)
    monkeypatch.setattr(disk, "free", lambda _: 0)
    assemble.assemble(folder)


def test_where_nothing_can_be_put_beside(bench, good, monkeypatch):
    """As in a folder that this user may not write to: the lock is the first to be refused."""
    monkeypatch.setattr(os, "open", refusing(errno.EACCES))
    with pytest.raises(FileSystemError) as told:
        signing.sign(bench.folder, good.key)
    lock = bench.folder.with_name(".release.hallmark-lock")
    assert str(told.value) == f"{bench.folder} is not signed: {lock}: Permission denied"


def test_a_report_is_whole(good, tmp_path):
    """A disk that is full as it is written leaves the old one, in a real process."""
    path = tmp_path / "report.json"
    path.write_bytes(b"old")
    words = ["compare", good.folder, good.folder, "--report", path]
    full = (
        "import errno, os; from conftest import refusing; from assay.__main__ import main; "
        "os.fsync = refusing(errno.ENOSPC); main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", full, *words],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        stderr=subprocess.PIPE, encoding="utf-8", check=False,
    )  # fmt: skip
    assert done.returncode == 17, done.stderr
    fresh = path.with_name(".report.json.hallmark-new")
    assert f"error: {path} is not written: {fresh}: No space left on device" in done.stderr
    assert "MB are needed." in done.stderr
    assert "Traceback" not in done.stderr
    assert (path.read_bytes(), names(tmp_path)) == (b"old", ["report.json"])


def test_a_folder_that_cannot_be_read(bench, monkeypatch):
    """It is told of, not passed over. Injected into `os.open`, since root may read all."""
    real = os.open

    def refuse(path, *args, **kwargs):
        if path == "provenance":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", refuse)
    for work in (assemble.assemble, lambda folder: signing.sign(folder, bench.key)):
        with pytest.raises(ReleaseError, match="'provenance': cannot be read .Permission denied"):
            work(bench.folder)
