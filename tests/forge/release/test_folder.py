"""Publishing replaces an earlier build whole, and nothing that is not one."""

import pytest
from documents import manifest

from forge.core import store
from forge.core.errors import FetchError, StoreError
from forge.core.store import Store
from forge.manifest import document
from forge.manifest.names import ADDED
from forge.release.folder import job_of, place


@pytest.fixture
def results(built):
    stated = manifest(built.job.recipe.name)
    attested = built.job.store.make(
        "attest", "key", lambda out: document.write(out / "provenance.json", stated), {}
    )
    return {**built.results, "attest": attested}


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
    (target / "extra").write_text("x")
    place(results, target)
    assert files(target) == {*results["dress"].digests, "provenance/provenance.json"}
    assert [path.name for path in target.parent.iterdir()] == ["variant"]


def test_a_release_is_not_undone(results, tmp_path):
    """Documents, list and signatures stay, and the files that a release made its own."""
    target = tmp_path / "dist" / "variant"
    place(results, target)
    for name in ADDED:
        (target / name).write_text(name)
    for path in target.rglob("*"):
        if path.is_file():
            store.own(path)
    before = files(target)
    assert before == {*results["dress"].digests, "provenance/provenance.json", *ADDED}
    place(results, target)
    assert before == files(target)
    (target / "config.json").write_text("{}")
    place(results, target)
    assert files(target) == {*results["dress"].digests, "provenance/provenance.json"}


def test_a_file_of_its_own_has_the_same_bytes_and_time(tmp_path):
    (tmp_path / "one").write_text("x")
    store.link(tmp_path / "one", tmp_path / "other")
    stamp = store.stamp(tmp_path / "one")
    store.own(tmp_path / "other")
    assert not (tmp_path / "one").samefile(tmp_path / "other")
    assert stamp == store.stamp(tmp_path / "other")
    (tmp_path / "other").write_text("y")
    assert (tmp_path / "one").read_text() == "x"


def test_never_replaces_a_foreign_folder(results, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("x")
    with pytest.raises(StoreError, match="is no earlier build, so it is not replaced"):
        place(results, tmp_path / "home")
    assert files(tmp_path / "home") == {"thesis.txt"}


def test_job_of_a_release(results, tmp_path):
    place(results, tmp_path / "dist")
    job = job_of(tmp_path / "dist", Store(tmp_path / "store"), None, None)
    assert (job.recipe.name, job.rehearsal) == ("qwen36-27b-vlm-mtp", True)


def test_folder_without_manifest(tmp_path):
    with pytest.raises(FetchError, match=r"has no provenance/provenance\.json"):
        job_of(tmp_path, Store(tmp_path), None, None)
