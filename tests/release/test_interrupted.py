"""What a publisher's commands leave when they are killed or refused: the old state or the new one.

The kills and refusals are those of `interrupted`, before every few calls of the hundred or so that
a command makes.
"""

import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from interrupted import MANY, before, killed, names, refusing
from released import build, local_base

from assay.release import steps, trust, verify
from forge.core import console, disk, placing
from forge.core.errors import FileSystemError, HallmarkError, SigningError, SpaceError
from forge.manifest import schemas
from forge.release import assemble, card, keys, signing

CODES = [errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS, errno.EMFILE]
STEP = 17


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
    demands = steps.Demands(trust=trust.by_key(key.with_name(f"{key.name}.pub")))
    verify.verify(folder, demands, lambda _: None)


class Release:
    """A build becomes a release; its files are shared with the store before, and not after."""

    def __init__(self, finished, good, folder):
        del good
        self.folder, self.finished = folder, finished
        self.before = content(finished)
        self.prepare()
        self.work()
        self.after = content(folder)

    def prepare(self):
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.finished, self.folder, copy_function=os.link)

    def work(self):
        assemble.assemble(self.folder)

    def check(self):
        now = content(self.folder)
        assert now in (self.before, self.after)
        assert is_own(self.folder) == (now == self.after)

    def check_done(self):
        assert content(self.folder) == self.after
        assert is_own(self.folder)


class Again(Release):
    """A signed release is replaced by one with other documents; one with links is verified."""

    def __init__(self, finished, good, folder):
        self.good = good
        super().__init__(finished, good, folder)
        self.before = content(good.folder)

    def prepare(self):
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.good.folder, self.folder)

    def work(self):
        assemble.assemble(self.folder, replace=True)

    def check(self):
        now = content(self.folder)
        assert now in (self.before, self.after)
        if now == self.before:
            verified(self.folder, self.good.key)


class Sign(Again):
    """A release is signed by another key: both bundles are by one of them."""

    def work(self):
        signing.sign(self.folder, self.good.other_key, model_signature=True)

    def check(self):
        new = (self.folder / "provenance/model.sig").exists()
        verified(self.folder, self.good.other_key if new else self.good.key)

    def check_done(self):
        self.check()
        assert is_own(self.folder)
        assert (self.folder / "provenance/model.sig").exists()


@pytest.fixture(params=[Release, Again, Sign])
def command(request, finished, good, tmp_path, monkeypatch):
    if request.param is not Release:
        monkeypatch.setattr(card, "notice", lambda _: "another notice")
    return request.param(finished, good, tmp_path / "out")


def test_killed(command, monkeypatch):
    """One state or the other at once; the next run ends in the new one, with nothing beside."""
    number = 0
    command.prepare()
    while killed(monkeypatch, number, command.work):
        command.check()
        command.work()
        command.check_done()
        assert names(command.folder.parent) == ["out"]
        command.prepare()
        number += STEP
    command.check_done()
    assert number > 3 * STEP


def test_refused(command, monkeypatch):
    """An error of ours in one line, or what was asked for; then as after a kill."""
    said, reached = [], [0]

    def refuse(*arguments):
        reached.append(number)
        refusing(CODES[len(reached) % len(CODES)])(*arguments)

    for number in range(0, MANY, STEP):
        command.prepare()
        try:
            with before(monkeypatch, number, refuse):
                command.work()
        except HallmarkError as error:
            said.append(str(error))
        command.check()
        command.work()
        command.check_done()
        assert names(command.folder.parent) == ["out"]
        if reached[-1] != number:
            break
    assert len(said) > 1
    assert all("\n" not in line for line in said)
    assert len(reached) > 3


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
    with pytest.raises(FileSystemError, match="is not made a release: .*full.*GB are needed"):
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


def test_a_key_killed_anywhere(tmp_path, monkeypatch):
    """Its public half is made good by the next run; a whole key is never replaced."""
    path, number = tmp_path / "key", 0
    while killed(monkeypatch, number, lambda: keys.generate(path)):
        private = path.read_bytes() if path.exists() else None
        if private is None or not (tmp_path / "key.pub").exists():
            name = keys.generate(path)
            assert name == keys.signer(path).public_key.keyid
        assert private in {None, path.read_bytes()}
        assert path.stat().st_mode & 0o777 == 0o600
        assert keys.public(tmp_path / "key.pub").keyid == keys.signer(path).public_key.keyid
        with pytest.raises(SigningError, match="a key is never replaced"):
            keys.generate(path)
        assert names(tmp_path) == ["key", "key.pub"]
        for one in tmp_path.iterdir():
            one.unlink()
        number += 1
    assert number > 12


@pytest.mark.parametrize("code", CODES)
def test_a_key_refused(tmp_path, monkeypatch, code):
    monkeypatch.setattr(os, "fsync", refusing(code))
    with pytest.raises(FileSystemError, match="key is not written: "):
        keys.generate(tmp_path / "key")
    assert names(tmp_path) == []


def test_schemas_killed_anywhere(tmp_path, monkeypatch):
    """Each is the old or the new one; a schema that is gone goes last."""
    folder, number = tmp_path / "schemas", 0
    schemas.write(folder)
    whole = content(folder)
    gone = folder / f"gone{schemas.SUFFIX}"
    gone.touch()
    while killed(monkeypatch, number, lambda: schemas.write(folder)):
        there = content(folder)
        assert all(there[name] == data for name, data in whole.items())
        schemas.write(folder)
        assert whole == content(folder)
        gone.touch()
        number += STEP
    assert number > 3 * STEP


def test_a_report_is_whole(good, tmp_path):
    """A disk that is full as it is written leaves the old one, in a real process."""
    path = tmp_path / "report.json"
    path.write_bytes(b"old")
    words = ["compare", good.folder, good.folder, "--report", path]
    full = (
        "import errno, os; from interrupted import refusing; from assay.__main__ import main; "
        "os.fsync = refusing(errno.ENOSPC); main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", full, *words],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        stderr=subprocess.PIPE, encoding="utf-8", check=False,
    )  # fmt: skip
    assert done.returncode == 17, done.stderr
    assert f"error: {path} is not written: No space left on device" in done.stderr
    assert "GB are needed." in done.stderr
    assert "Traceback" not in done.stderr
    assert (path.read_bytes(), names(tmp_path)) == (b"old", ["report.json"])


def test_a_folder_that_cannot_be_read(bench, monkeypatch):
    """It is told of, not passed over. Injected into `os.scandir`, since root may read all."""
    scan = os.scandir

    def refuse(path):
        if str(path).endswith("provenance"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    for work in (assemble.assemble, lambda folder: signing.sign(folder, bench.key)):
        with pytest.raises(FileSystemError, match="/provenance: Permission denied"):
            work(bench.folder)
