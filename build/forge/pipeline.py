"""The steps of a build, in order, and the one way to run them.

Each step is a module with two functions:

- `parameters(job, needed) -> dict`: everything besides the digests of the needed results and the
  code that decides the outcome, as JSON;
- `run(job, needed, out) -> dict | None`: writes its files under `out`; may return
  the sha256 of those it hashed while writing.

A step's key is the hash of all of that. Where the store has a result under the key, the step is
skipped; so an unchanged build does no work, and a killed one goes on in the step that it was in.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Protocol

from forge.core import canonical, checkout, console, machine
from forge.core.errors import StoreError
from forge.core.store import Result, Store
from forge.recipes.recipe import Recipe

Needed = Mapping[str, Result]
Level = Literal["none", "structure", "all"]


@dataclass(frozen=True, kw_only=True)
class Step:
    """A step: the module that does it, the results it reads, the environment it runs in.

    Of a result that `reads` names, the step reads only what lies below these paths, so variants
    that differ elsewhere share its own result.
    """

    name: str
    module: str
    needs: tuple[str, ...]
    reads: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    environment: Literal["build", "verify"] = "build"

    def inputs(self, needed: Needed) -> dict[str, dict[str, str]]:
        """The digests of all that the step reads, by result and path."""
        return {
            name: {
                path: digest
                for path, digest in needed[name].digests.items()
                if path.startswith(self.reads.get(name, ("",)))
            }
            for name in self.needs
        }


STEPS = (
    Step(name="fetch", module="forge.inputs.fetch", needs=()),
    Step(
        name="calibrate",
        module="forge.calibration.calibrate",
        needs=("fetch",),
        reads={"fetch": ("base/", "calibration/")},
    ),
    Step(
        name="quantize",
        module="forge.checkpoint.quantize",
        needs=("fetch", "calibrate"),
        reads={"fetch": ("base/",), "calibrate": ("calibration.safetensors",)},
    ),
    Step(
        name="graft",
        module="forge.checkpoint.graft",
        needs=("fetch",),
        reads={"fetch": ("base/", "donor/")},
    ),
    Step(name="dress", module="forge.checkpoint.dress", needs=("fetch", "quantize", "graft")),
    Step(name="verify", module="assay.verify", needs=("fetch", "dress"), environment="verify"),
    Step(
        name="attest",
        module="forge.release.attest",
        needs=("fetch", "calibrate", "quantize", "graft", "dress", "verify"),
        environment="verify",
    ),
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """What is asked for: a recipe, where its inputs come from, and how far it is verified.

    In a rehearsal, `base` replaces the recipe's base by a local checkpoint (None: the stand-in).
    Of a `contained` job, every step but fetch runs in the image.
    """

    recipe: Recipe
    store: Store
    rehearsal: bool
    base: Path | None = None
    mirror: Path | None = None
    level: Level = "all"
    contained: bool = False


class Module(Protocol):
    """The face of a step's module."""

    def parameters(self, job: Job, needed: Needed) -> dict[str, Any]:
        """All that decides the outcome, but for the needed results and the code."""

    def run(self, job: Job, needed: Needed, out: Path) -> Mapping[str, str] | None:
        """Writes the step's files under `out`."""


def run(
    job: Job, environment: str, *, until: str = "attest", given: Needed = MappingProxyType({})
) -> dict[str, Result]:
    """Runs the steps that belong to `environment`, skipping those whose result is in the store.

    The environments come one after the other: the first runs until a step of the second is due,
    and the second finds the results of the first in the store. Ends with the step `until`. A step
    whose result is `given` is not run.

    Raises:
        StoreError: a step of an earlier environment has no result yet.
    """
    results = dict(given)
    for step in STEPS:
        if environment == "build" and environment_of(step, job) != "build":
            break
        if step.name not in given:
            results[step.name] = _run_step(step, job, results, environment)
        if step.name == until:
            break
    return results


def environment_of(step: Step, job: Job) -> str:
    """Where a step runs: without the engine's checks, everything runs where the build does."""
    if job.contained and step.name == "fetch":
        return "host"
    return step.environment if job.level == "all" else "build"


def _run_step(step: Step, job: Job, results: Mapping[str, Result], environment: str) -> Result:
    module: Module = importlib.import_module(step.module)
    needed = {name: results[name] for name in step.needs}
    facts = {
        "parameters": module.parameters(job, needed),
        "needs": step.inputs(needed),
        "code": checkout.code_digest(),
        "lock": checkout.lock_digests(environment_of(step, job)),
        "image": machine.image_layers(),
    }
    key = canonical.sha256_text(canonical.dumps({"step": step.name, **facts}))
    with job.store.lock(step.name, key):
        found = job.store.get(step.name, key)
        if found is not None:
            console.skipped(step.name)
            return found
        if environment_of(step, job) != environment:
            raise StoreError(
                f"step {step.name!r} has no result yet and runs in the environment "
                f"{environment_of(step, job)!r}, not {environment!r}. Start from the Makefile; "
                "it runs every step in its own environment."
            )
        with console.running(step.name):
            return job.store.make(step.name, key, lambda out: module.run(job, needed, out), facts)
