"""Small releases for tests, made by the real steps from a base that needs no torch."""

from contextlib import contextmanager

from conftest import (
    FACTS,
    FLAGSHIP,
    base_arrays,
    base_config,
    record_by_hand,
    write_checkpoint,
)

from forge import ledger as ledgers
from forge import pipeline
from forge.calibration import calibrate, record
from forge.core import canonical
from forge.core.store import Store
from forge.inputs import fetch
from forge.pipeline import Job
from forge.recipes import recipe
from forge.release import assemble
from forge.release.placement import place


def local_base(folder):
    """The small base with the files beside it that the recipe asks for."""
    write_checkpoint(folder, base_arrays())
    canonical.write(folder / "config.json", base_config())
    canonical.write(folder / "tokenizer_config.json", {"backend": "tokenizers"})
    canonical.write(folder / "generation_config.json", {"eos_token_id": 1})
    for name in ("tokenizer.json", "preprocessor_config.json"):
        canonical.write(folder / name, {})
    return folder


def build(root, base, variant=FLAGSHIP):
    """A rehearsal by the real steps, but for the record, which is written by hand."""
    job = fetch.choose(
        Job(
            recipe=recipe.find(variant),
            store=Store(root / "store"),
            rehearsal=True,
            base=base,
            level="structure",
        )
    )
    fetched = pipeline.run(job, until="fetch")
    calibrated = calibrated_by_hand(job, fetched)
    place(pipeline.run(job, given={**fetched, "calibrate": calibrated}), root / "release")


def calibrated_by_hand(job, fetched):
    """A calibration record that is written by hand, under the key that calibrate's would have."""
    work = pipeline.work_on(job, fetched)
    (step,) = (step for step in pipeline.STEPS if step.name == "calibrate")
    facts = {
        **pipeline.code_of(calibrate.__name__),
        "parameters": calibrate.parameters(work),
        "needs": step.inputs(fetched),
    }
    return pipeline.kept(
        job.store,
        step.name,
        facts,
        lambda out: record_by_hand(out / record.FILE, work.checkpoint),
    )


def signed_release(root):
    """A signed release in `<root>/release`; its key is `<root>/key`, its store `<root>/store`."""
    from forge.release import keys, signing  # what only the release environment has

    build(root, local_base(root / "base"))
    assemble.assemble(root / "release")
    keys.generate(root / "key")
    signing.sign(root / "release", root / "key")
    return root / "release"


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
        checkpoint = pipeline.work_on(job, results).checkpoint
        calibrated = job.store.get("calibrate", "by hand") or job.store.make(
            "calibrate",
            "by hand",
            lambda out: record_by_hand(out / record.FILE, checkpoint),
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
