"""The driver, with a runner that runs the steps in this process: what it places, and what not."""

import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest
import released
from conftest import FACTS, FLAGSHIP

from forge import driver, pipeline
from forge import ledger as ledgers
from forge.calibration import record
from forge.core.errors import StoreError
from forge.core.store import Store
from forge.pipeline import Job
from forge.recipes import recipe


@pytest.fixture
def job(tmp_path):
    base = released.local_base(tmp_path / "base")
    return Job(
        recipe=recipe.find(FLAGSHIP),
        store=Store(tmp_path / "store"),
        rehearsal=True,
        base=base,
        level="structure",
    )


class Here:
    """A runner whose record is written by hand; a neighbour acts before it ends."""

    def __init__(self, folder, neighbour):
        self.folder = folder
        self.neighbour = neighbour

    def run(self, environment, ledger, fetched):
        """As that of the driver."""
        assert environment == "build"
        job, results = ledgers.read(ledger)
        assert results["fetch"].key == fetched.key
        modules = pipeline.work_on(job, results).checkpoint.plan.quantized
        maxima = {module: 1.0 + number for number, module in enumerate(modules)}
        calibrated = job.store.get("calibrate", "by hand") or job.store.make(
            "calibrate",
            "by hand",
            lambda out: record.write(out / record.FILE, maxima, {"device": "a hand"}),
            FACTS,
        )
        made = pipeline.run(job, given={**results, "calibrate": calibrated})
        ledgers.write(ledger, job, made)
        self.neighbour()
        return 0


@contextmanager
def here(job, neighbour=lambda: None):
    with job.store.scratch("ledger") as folder:
        yield Here(folder, neighbour)


def test_a_neighbour_at_the_same_folder(job, tmp_path, monkeypatch):
    """Of another result one clear refusal, even where replacing is allowed; then it is placed."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    out, manifest = tmp_path / "out", Path("provenance", "provenance.json")
    assert driver.build(job, tmp_path / "other", here(job)) == 0
    other = tmp_path / "other" / manifest
    stated = other.read_bytes()
    other.unlink()  # its bytes are those of the store
    other.write_bytes(stated.replace(b'"verified":"structure"', b'"verified":"all"'))

    def placed():
        shutil.copytree(tmp_path / "other", out)

    with pytest.raises(StoreError, match="another build, with another result, was placed there"):
        driver.build(job, out, here(job, placed), replace=True)
    assert (out / manifest).read_bytes() == other.read_bytes()
    assert driver.build(job, out, here(job)) == 0
    assert (out / manifest).read_bytes() != other.read_bytes()
    assert driver.build(job, out, here(job)) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "other", "out", "store"]
    assert list((tmp_path / "store" / "tmp").iterdir()) == []


def test_a_signed_release_at_the_folder(job, tmp_path, monkeypatch):
    """An unchanged build leaves it; another is refused, unless replacing is allowed."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    out = tmp_path / "out"
    assert driver.build(job, out, here(job)) == 0
    signature = out / "provenance" / "provenance.sigstore.json"
    signature.write_text("{}", encoding="utf-8")
    assert driver.build(job, out, here(job)) == 0
    (out / "config.json").unlink()
    with pytest.raises(StoreError, match="is signed"):
        driver.build(job, out, here(job))
    assert signature.exists()
    assert driver.build(job, out, here(job), replace=True) == 0
    assert not signature.exists()
