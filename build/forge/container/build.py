"""Runs the environments of the pinned image; fetch has run on the host before, with its network."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from forge.container import image, requirements
from forge.container.requirements import Limits
from forge.container.sandbox import PYTHON, Sandbox, caller, sweep
from forge.core import image_labels, walking
from forge.core.errors import ImageError
from forge.core.results import Result
from forge.pipeline import Environment, Job


@dataclass(frozen=True, kw_only=True)
class PinnedImage:
    """Runs each environment in a container of its own."""

    sandbox: Sandbox

    @property
    def folder(self) -> Path:
        """What is /tmp in the containers."""
        return self.sandbox.scratch

    def run(self, environment: Environment, ledger: Path, fetched: Result) -> int:
        """Runs the steps of an environment, with what was fetched to read and the store to write.

        Raises:
            ContainerError: it was ended at a limit, or from outside.
        """
        python = PYTHON.format(environment=environment)
        inside = f"/tmp/{ledger.name}"  # noqa: S108 - the container's own
        sandbox = replace(self.sandbox, inputs=inputs(fetched))
        return sandbox.run([python, "-m", "forge", "steps", inside, environment])


@contextmanager
def in_the_image(job: Job, limits: Limits) -> Iterator[PinnedImage]:
    """The runner of the pinned image; one build of a store at a time.

    Raises:
        HallmarkError: whatever this machine lacks for it.
    """
    client = requirements.engine()
    found = image.find(client)
    if not job.rehearsal and found.labels[image_labels.DIRTY] != "false":
        raise ImageError(f"{image.name()}: was made from no commit.", remedy="make-image")
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
        yield PinnedImage(sandbox=sandbox)


def inputs(fetched: Result) -> frozenset[Path]:
    """The folders that a build reads: the fetch step's own, and those that its links lead to."""
    links = (path for path in walking.below(fetched.files) if path.is_symlink())
    return frozenset({fetched.files.parent, *(link.resolve().parent for link in links)})


@contextmanager
def _scratch(job: Job) -> Iterator[Path]:
    """A folder for what the containers leave besides results."""
    with job.store.lock("image", "run"), job.store.scratch("image") as folder:
        yield folder
