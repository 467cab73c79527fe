"""What verify-release refuses at sight, release, sign, publish and reproduce refuse before they do
anything: nothing is signed, and nothing is called identical."""

import os
import shutil

import pytest
from assets.verify.spoils import SPOILS

from assay.rebuild import reproduce
from forge.core import console
from forge.core.errors import HallmarkError, ReleaseError, SigningError
from forge.core.store import Store
from forge.release import assemble, keys, publish, signing

COMMIT = "0123456789abcdef" * 2 + "01234567"


def signatures(folder):
    return {
        path.name: path.read_bytes() for path in (folder / "provenance").glob("*.sigstore.json")
    }


@pytest.mark.parametrize("spoil", SPOILS, ids=[one.__name__ for one in SPOILS])
def test_nothing_is_done(good, bench, tmp_path, spoil):
    spoil(bench.folder)
    before = signatures(bench.folder)
    base = good.key.parent / "base"
    for work in (
        lambda: assemble.assemble(bench.folder, replace=True),
        lambda: signing.sign(bench.folder, good.other_key),
        lambda: publish.upload(bench.folder, "owner/name", confirm=True, rehearsal=True),
        lambda: reproduce.run(bench.folder, Store(tmp_path / "store"), base=base),
    ):
        with pytest.raises(HallmarkError, match=SPOILS[spoil]):
            work()
    assert before == signatures(bench.folder)


def test_another_config_is_not_signed(good, bench):
    """Though the list of the release has it: it is not what was built."""
    (bench / "config.json").write_text("{}\n", encoding="utf-8")
    bench.relist()
    for work in (
        lambda: signing.sign(bench.folder, good.key),
        lambda: assemble.assemble(bench.folder, replace=True),
    ):
        with pytest.raises(ReleaseError, match="config.json: has sha256 .*, SHA256SUMS says"):
            work()


def test_a_folder_of_git_is_told(good, bench, tmp_path, monkeypatch):
    """What is in it does not count, and that is said; to sign, it has to go."""
    said = []
    monkeypatch.setattr(console, "say", said.append)
    (bench / ".git").mkdir()
    (bench / ".git/config").write_text("[core]\n\tfsmonitor = touch struck\n", encoding="utf-8")
    found = reproduce.run(bench.folder, Store(tmp_path / "store"), base=good.key.parent / "base")
    assert found.identical
    assert said[0].startswith(f"{bench.folder}: .git is git's: nothing in it was looked at.")
    with pytest.raises(ReleaseError, match="was changed since it was made a release"):
        signing.sign(bench.folder, good.key)


def test_a_hubs_cache_is_not_signed(good, tmp_path):
    repository = tmp_path / "models--a--b"
    snapshot = repository / "snapshots" / COMMIT
    shutil.copytree(good.folder, snapshot)
    (repository / "blobs").mkdir()
    (snapshot / "config.json").rename(repository / "blobs" / ("a" * 40))
    (snapshot / "config.json").symlink_to(f"../../blobs/{'a' * 40}")
    for work in (
        lambda: signing.sign(snapshot, good.key),
        lambda: assemble.assemble(snapshot, replace=True),
    ):
        with pytest.raises(ReleaseError, match="is a snapshot in a hub's cache"):
            work()


def test_a_key_without_end(bench, tmp_path):
    (tmp_path / "sparse").touch()
    os.truncate(tmp_path / "sparse", 8 << 30)
    with pytest.raises(SigningError, match="has more than 65536 bytes"):
        keys.public(tmp_path / "sparse")
    with pytest.raises(SigningError, match="has more than 65536 bytes"):
        signing.sign(bench.folder, tmp_path / "sparse")
