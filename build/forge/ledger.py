"""Hands a job and its results from one process of a build to the next, in a file.

The driver writes it once it has decided where each input comes from, and every process adds what it
made. So no process asks the hub or the clock again for what an earlier one has decided.
"""

from dataclasses import replace
from pathlib import Path

from pydantic import ValidationError

from forge.core import checkout, filesystem
from forge.core.errors import SourceError, StoreError
from forge.core.model import mistake
from forge.core.results import Result
from forge.core.store import Store
from forge.manifest.ledger import MOST, Ledger
from forge.pipeline import Job, Needed, leaves_of
from forge.recipes import recipe


def write(path: Path, job: Job, results: Needed) -> None:
    """Writes down a job and the keys of its results."""
    found = Ledger(
        variant=job.recipe.name,
        rehearsal=job.rehearsal,
        base=None if job.base is None else str(job.base),
        mirror=None if job.mirror is None else str(job.mirror),
        level=job.level,
        store=str(job.store.root),
        source=checkout.source_digests(),
        origins=dict(job.origins),
        results={step: result.key for step, result in results.items()},
        checked=tuple(step for step, result in results.items() if result.checked),
    )
    # Whoever looks for what this build needs never reads half of it.
    filesystem.replace(path, found.encoded())


def read(path: Path) -> tuple[Job, dict[str, Result]]:
    """The job and the results that it has.

    Raises:
        StoreError: the file is no ledger, or a result is not in the store, or not intact.
        SourceError: the source is not that of the process which began the build.
        RecipeError: the recipe is not there any more.
    """
    try:
        found = Ledger.parse(filesystem.read(path, MOST))
    except (OSError, ValueError) as error:
        why = mistake(error) if isinstance(error, ValidationError) else str(error)
        raise StoreError(f"{path}: is no ledger of a build: {why}.") from error
    here = checkout.source_digests()
    changed = (n for n in found.source | here if found.source.get(n) != here.get(n))
    if (name := next(changed, None)) is not None:
        raise SourceError(
            f"{name}: was changed since this build began, so its result would be of two trees. "
            "Finished steps are kept; run again."
        )
    job = Job(
        recipe=recipe.find(found.variant),
        store=Store(Path(found.store)),
        rehearsal=found.rehearsal,
        base=None if found.base is None else Path(found.base),
        mirror=None if found.mirror is None else Path(found.mirror),
        level=found.level,
        origins=found.origins,
    )
    results = {}
    for step, key in found.results.items():
        with job.store.lock(step, key):
            result = job.store.get(step, key, leaves_of)
        if result is None:
            raise StoreError(
                f"{path}: the store has no intact result of {step!r} any more. "
                "Run again, which makes that anew."
            )
        results[step] = replace(result, checked=step in found.checked)
    return job, results
