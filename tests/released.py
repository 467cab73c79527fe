"""Small releases for tests, made by the real steps from a base that needs no torch."""

from conftest import FACTS, FLAGSHIP, base_arrays, base_config, write_checkpoint

from forge import pipeline
from forge.calibration import record
from forge.core import canonical
from forge.core.store import Store
from forge.inputs import fetch
from forge.pipeline import Job
from forge.recipes import recipe
from forge.release import assemble
from forge.release.folder import place


def local_base(folder):
    """The small base with the files beside it that the recipe asks for."""
    write_checkpoint(folder, base_arrays())
    canonical.write(folder / "config.json", base_config())
    canonical.write(folder / "tokenizer_config.json", {"backend": "tokenizers"})
    return folder


def build(root, base):
    """A rehearsal by the real steps, but for the record, which is written by hand."""
    job = fetch.choose(
        Job(
            recipe=recipe.find(FLAGSHIP),
            store=Store(root / "store"),
            rehearsal=True,
            base=base,
            level="structure",
        )
    )
    fetched = pipeline.run(job, until="fetch")
    modules = pipeline.work_on(job, fetched).checkpoint.plan.quantized
    maxima = {module: 1.0 + number for number, module in enumerate(modules)}
    calibrated = job.store.make(
        "calibrate",
        "by hand",
        lambda out: record.write(out / record.FILE, maxima, {"device": "a hand"}),
        FACTS,
    )
    place(pipeline.run(job, given={**fetched, "calibrate": calibrated}), root / "release")


def signed_release(root):
    """A signed release in `<root>/release`; its key is `<root>/key`, its store `<root>/store`."""
    from forge.release import keys, signing  # what only the release environment has

    build(root, local_base(root / "base"))
    assemble.assemble(root / "release")
    keys.generate(root / "key")
    signing.sign(root / "release", root / "key")
    return root / "release"
