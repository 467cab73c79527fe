"""A build from beginning to end: fetch, the steps of each environment, and placing the result.

The driver decides where each input comes from and fetches, with the network and the credentials of
this machine. A runner starts a process for each other environment, on this machine or in the pinned
image. Both kinds of process get the job from the ledger.
"""

import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from forge import ledger as ledgers
from forge import pipeline
from forge.core import checkout, console, locks
from forge.core.processes import process
from forge.core.results import Result
from forge.inputs import fetch, preflight
from forge.pipeline import Environment, Job
from forge.release import summary
from forge.release.placement import look, place, require_apart

# How a process ends that has mapped a file of which the disk does not give a page.
_BUS = 128 + signal.SIGBUS


class Runner(Protocol):
    """Starts processes of environments; `folder` is where they find the ledger."""

    @property
    def folder(self) -> Path:
        """A folder for this build alone, gone when it ends."""

    def run(self, environment: Environment, ledger: Path, fetched: Result) -> int:
        """Runs the steps of an environment to their end; returns the exit code."""


def build(
    job: Job, target: Path, runner: AbstractContextManager[Runner], *, replace: bool = False
) -> int:
    """Builds `job` and places the result at `target`; returns the exit code.

    With `replace`, also in place of what `place` does not replace unasked.

    Raises:
        HallmarkError: whatever `target`, the runner or the base lacks, before any work; then as
            fetch and placing do.
        StoreError: a file of the base, which a process had mapped, cannot be read off the disk.
        OSError: nothing can be made at `target`.
    """
    require_apart(target, job)
    for where in (job.store.root, target):
        locks.tell_if_local(where)
    found = look(target)
    with runner as running:
        base = preflight.check(fetch.choose(job, fetch.LINKED))
        job = fetch.choose(job)
        results = pipeline.run(job, within=("host",))
        pipeline.recheck(results, trusted={"fetch": ("tensors/",)})
        preflight.check_fetched(job, base, results["fetch"])
        ledger = running.folder / "ledger.json"
        ledgers.write(ledger, job, results)
        for environment in job.environments:
            if environment != "host":
                code = running.run(environment, ledger, results["fetch"])
                if code == _BUS:  # torch maps the base
                    pipeline.recheck(results, trusted={"fetch": ("",)})
                if code:
                    return code
        _, made = ledgers.read(ledger)
        place(made, target, replace=replace, found=found)
    summary.show(target)
    return 0


@dataclass(frozen=True, kw_only=True)
class ThisMachine:
    """Runs the environments of this checkout."""

    folder: Path

    def run(self, environment: Environment, ledger: Path, fetched: Result) -> int:
        """As `Runner.run`."""
        del fetched  # is where the ledger says
        python = str(checkout.python_of(environment))
        with process([python, "-m", "forge", "steps", str(ledger), environment]) as child:
            code = child.wait()
        # That of a process that a signal ended is negative here; in a container it is 128 + n.
        code = 128 - code if code < 0 else code
        if code > 128:
            console.say(
                f"the process of the environment {environment!r} was ended by signal {code - 128}; "
                "finished steps are kept"
            )
        return code


@contextmanager
def on_this_machine(job: Job) -> Iterator[ThisMachine]:
    """The runner of this machine.

    Raises:
        NoEnvironmentError: an environment that the job needs was not made.
    """
    for environment in job.environments:
        if environment != "host":
            checkout.python_of(environment)
    with job.store.scratch("ledger") as folder:
        yield ThisMachine(folder=folder)
