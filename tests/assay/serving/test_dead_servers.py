"""A server that ends while it starts: no verdict, but its log is kept and named.

What is started is the real command; this environment has no vLLM, so Python says that and exits.
"""

import pytest
from conftest import FLAGSHIP

from assay.serving import baseline, engine, flags, profiles, smoke
from assay.serving.perplexity import Perplexity
from forge import pipeline
from forge.calibration import record
from forge.core.errors import EngineError
from forge.core.store import Store
from forge.manifest.verification import UnmeasuredError
from forge.pipeline import Job
from forge.recipes import recipe

FIGURES = Perplexity(windows=1, tokens=8, scored=7, value=8.5, mean_nll=2.14, seconds=1.0)
SAYS = "No module named"


@pytest.fixture(scope="module")
def dressed(tmp_path_factory):
    """A build before verify; the calibration record is written by hand."""
    wanted = recipe.find(FLAGSHIP)
    job = Job(
        recipe=wanted, store=Store(tmp_path_factory.mktemp("dead") / "store"), rehearsal=True,
        origins=dict.fromkeys(wanted.sources, "standin"),
    )  # fmt: skip
    given = pipeline.run(job, until="fetch")

    def by_hand(out):
        plan = pipeline.work_on(job, given).checkpoint.plan
        record.write(out / record.FILE, dict.fromkeys(plan.calibrated, 1.0), {"device": "a hand"})

    given["calibrate"] = job.store.make("calibrate", "by hand", by_hand, {})
    return job, pipeline.run(job, until="dress", given=given)


def unmeasured(*_):
    raise UnmeasuredError("there is no vLLM here")


@pytest.mark.parametrize(
    ("scored", "logs"),
    [(False, ["serve-base.log"]), (True, ["serve-mtp.log", "serve-plain.log"])],
)
def test_the_log_of_a_server_that_did_not_start_is_kept(dressed, monkeypatch, scored, logs):
    """Be it of the base or of the checkpoint; the place is the last thing that the error says."""
    job, given = dressed
    monkeypatch.setattr(engine, "device", lambda: "cpu")
    monkeypatch.setattr(flags, "_has_avx512", lambda: False)
    # What is asked of vLLM's own modules in this process; no verdict comes of it.
    monkeypatch.setattr(profiles, "taken", unmeasured)
    monkeypatch.setattr(smoke, "tool_parser", unmeasured)
    if scored:
        monkeypatch.setattr(baseline, "perplexity", lambda *_, **__: FIGURES)
    with pytest.raises(EngineError, match="vLLM ended with exit code 1 while starting") as told:
        pipeline.run(job, until="verify", given=given)
    kept = job.store.root / "failed" / job.recipe.name
    assert str(told.value).splitlines()[-1] == f"Kept in {kept}: {', '.join(logs)}."
    assert SAYS in (kept / logs[0]).read_text(encoding="utf-8")
    assert not list(job.store.root.glob("verify/*"))
