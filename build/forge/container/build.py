"""A build whose steps run in the image: fetch here, with the network, all else there, without."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from forge import ledger as ledgers
from forge import pipeline
from forge.container import image, requirements
from forge.container.requirements import Limits
from forge.container.sandbox import PYTHON, Sandbox, caller, sweep
from forge.core.errors import ImageError
from forge.core.store import Result
from forge.pipeline import Job, Needed
from forge.release import summary
from forge.release.folder import place


def run(job: Job, target: Path, limits: Limits) -> int:
    """Builds `job` in the image and publishes at `target`; returns the exit code.

    Raises:
        HallmarkError: whatever this machine lacks for it, before any work; then as the steps do.
    """
    job = replace(job, contained=True)
    client = requirements.engine()
    found = image.find(client)
    if not job.rehearsal and found.labels["hallmark.dirty"] != "false":
        raise ImageError(f"{image.name()}: was made from no commit; make it again: `make image`.")
    graphics = requirements.graphics(found, rehearsal=job.rehearsal)
    requirements.space(job.store.root, limits, rehearsal=job.rehearsal)
    with _scratch(job) as scratch:
        sweep(client, job.store.root)
        sandbox = Sandbox(
            client=client,
            image=found,
            store=job.store.root,
            inputs=frozenset(),
            scratch=scratch,
            limits=limits,
            user=caller(client),
            graphics=graphics,
        )
        sandbox.require_graphics()
        results: Needed = pipeline.run(job, "host", until="fetch")
        ledger = scratch / "ledger.json"
        ledgers.write(ledger, results)
        sandbox = replace(sandbox, inputs=inputs(results["fetch"]))
        for environment in ("build", "verify") if job.level == "all" else ("build",):
            code = sandbox.run(_command(job, environment))
            if code:
                return code
        results = ledgers.read(ledger, job.store)
        place(results, target)
    summary.show(target)
    return 0


def inputs(fetched: Result) -> frozenset[Path]:
    """The folders that a build reads: the fetch step's own, and those that its links lead to."""
    links = (path for path in fetched.files.rglob("*") if path.is_symlink())
    return frozenset({fetched.files.parent, *(link.resolve().parent for link in links)})


def _command(job: Job, environment: str) -> list[str]:
    return [
        PYTHON.format(environment=environment), "-m", "forge", "run", job.recipe.name,
        *(["--rehearse"] if job.rehearsal else []),
        f"--verify={job.level}", f"--environment={environment}",
        f"--store={job.store.root}", "--ledger=/tmp/ledger.json",
    ]  # fmt: skip


@contextmanager
def _scratch(job: Job) -> Iterator[Path]:
    """A folder for what the containers leave besides results; one build of a store at a time."""
    with job.store.lock("contained", "run"):
        folder = job.store.root / "tmp" / "contained"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
