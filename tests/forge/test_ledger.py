"""The ledger: what one process of a build writes, the next one reads as it was meant."""

import shutil
from dataclasses import replace

import pytest

from forge import ledger as ledgers
from forge.core import canonical
from forge.core.errors import SourceError, StoreError

ORIGINS = {"base": "local", "perplexity": "standin"}


@pytest.fixture
def written(built, tmp_path):
    """The ledger of a job that has results."""
    job = replace(built.job, base=tmp_path / "base", origins=ORIGINS)
    ledgers.write(tmp_path / "ledger.json", job, built.results)
    return tmp_path / "ledger.json"


def test_job_and_results_come_back(written, built, tmp_path):
    job, results = ledgers.read(written)
    assert (job.recipe, job.level, job.rehearsal) == (built.job.recipe, "structure", True)
    assert (job.base, job.mirror, job.origins) == (tmp_path / "base", None, ORIGINS)
    assert job.store.root == built.job.store.root
    assert results == dict(built.results)


def test_a_result_that_is_gone_is_named(written, built):
    shutil.rmtree(built.job.store.root / "graft")
    with pytest.raises(StoreError, match="no intact result of 'graft'"):
        ledgers.read(written)


def test_source_that_was_changed_meanwhile_is_named(written):
    """A manifest names one tree; what began in another is begun again."""
    source = canonical.read(written)["source"] | {"build/forge/driver.py": "0" * 64}
    canonical.write(written, canonical.read(written) | {"source": source})
    with pytest.raises(SourceError, match=r"build/forge/driver\.py: was changed since this build"):
        ledgers.read(written)


@pytest.mark.parametrize(
    "change", [{"another": 1}, {"level": "some"}, {"origins": {"base": "nowhere"}}, {"results": []}]
)
def test_what_is_no_ledger_is_refused(written, change):
    canonical.write(written, canonical.read(written) | change)
    with pytest.raises(StoreError, match=r"ledger\.json: is no ledger of a build"):
        ledgers.read(written)
