"""Publishing replaces an earlier build whole, and nothing that is not one."""

import pytest

from forge import canonical, release
from forge.errors import FetchError, StoreError
from forge.store import Store


@pytest.fixture
def results(built):
    predicate = {
        "buildDefinition": {
            "externalParameters": {"source": "standin:x", "target": built.job.recipe.name}
        },
        "runDetails": {"builder": {"id": "urn:hallmark:builder:rehearsal"}},
    }
    attested = built.job.store.make(
        "attest",
        "key",
        lambda out: canonical.write(out / "provenance.json", {"predicate": predicate}),
        {},
    )
    return {**built.results, "attest": attested}


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_publishes_checkpoint_and_provenance(results, tmp_path):
    target = tmp_path / "dist" / "variant"
    release.publish(results, target)
    assert files(target) == {*results["dress"].digests, "provenance/provenance.json"}


def test_second_time_does_nothing(results, tmp_path):
    target = tmp_path / "dist" / "variant"
    release.publish(results, target)
    before = target.stat().st_ino
    release.publish(results, target)
    assert before == target.stat().st_ino


def test_replaces_an_edited_build(results, tmp_path):
    target = tmp_path / "dist" / "variant"
    release.publish(results, target)
    (target / "config.json").unlink()
    (target / "extra").write_text("x")
    release.publish(results, target)
    assert files(target) == {*results["dress"].digests, "provenance/provenance.json"}
    assert [path.name for path in target.parent.iterdir()] == ["variant"]


def test_never_replaces_a_foreign_folder(results, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("x")
    with pytest.raises(StoreError, match="is no earlier build, so it is not replaced"):
        release.publish(results, tmp_path / "home")
    assert files(tmp_path / "home") == {"thesis.txt"}


def test_job_of_a_release(results, tmp_path):
    release.publish(results, tmp_path / "dist")
    job = release.job(tmp_path / "dist", Store(tmp_path / "store"), None, None)
    assert (job.recipe.name, job.rehearsal) == ("qwen36-27b-vlm-mtp", True)


def test_folder_without_manifest(tmp_path):
    with pytest.raises(FetchError, match=r"has no provenance/provenance\.json"):
        release.job(tmp_path, Store(tmp_path), None, None)
