"""A release says which job it is of."""

import pytest
from placed import attested

from forge.core.errors import FetchError
from forge.core.store import Store
from forge.release.folder import job_of
from forge.release.placement import place


@pytest.fixture
def results(built):
    return attested(built)


def test_job_of_a_release(results, tmp_path):
    place(results, tmp_path / "dist")
    job = job_of(tmp_path / "dist", Store(tmp_path / "store"), None, None)
    assert (job.recipe.name, job.rehearsal) == ("qwen36-27b-vlm-mtp", True)


def test_folder_without_manifest(tmp_path):
    with pytest.raises(FetchError, match=r"has no provenance/provenance\.json"):
        job_of(tmp_path, Store(tmp_path), None, None)
