"""What the rounds begin with: jobs on small bases, and a store and folders that they left before.

Everything is made by the real steps, once, but for the calibration record, which is written by
hand. A round works on copies.
"""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from conftest import FLAGSHIP, base_arrays, write_checkpoint
from faults.commands import here
from released import local_base

from forge import driver, pipeline
from forge.calibration import calibrate, record
from forge.core import checkout
from forge.core.model import Level
from forge.core.store import Store
from forge.pipeline import Job
from forge.recipes import recipe
from forge.release import assemble, keys, signing

if TYPE_CHECKING:
    from forge.tensors.checkpoint import Checkpoint

SUMS = Path("provenance", "SHA256SUMS")
# What of a store is there when a round begins: the steps, of all jobs.
STATES = {
    "empty": (),
    "calibrated": ("fetch", "calibrate"),
    "full": tuple(step.name for step in pipeline.STEPS),
}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A build that can be asked for."""

    name: str
    base: Path
    level: Level

    def job(self, store: Path) -> Job:
        """It, with a store."""
        return Job(
            recipe=recipe.find(FLAGSHIP),
            store=Store(store),
            rehearsal=True,
            base=self.base,
            level=self.level,
        )


def build(asked: Asked, store: Path, out: Path, *, replace: bool = False) -> None:
    """The command `build`; ends with its exit code."""
    job = asked.job(store)
    raise SystemExit(driver.build(job, out, here(job), replace=replace))


@contextmanager
def warm() -> Iterator[None]:
    """Forks within know the checkout already, and need no library to calibrate.

    Reading the checkout is most of what a small build does, and it stays as it is meanwhile.
    """
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pipeline, "code_of", cache(pipeline.code_of))
        patched.setattr(pipeline, "module_of", cache(pipeline.module_of))
        patched.setattr(checkout, "commit", cache(checkout.commit))
        patched.setattr(calibrate, "calibrate", _by_hand)
        patched.setenv("HF_HUB_OFFLINE", "1")
        yield


def _by_hand(made: "Checkpoint", inputs: Path, path: Path) -> None:
    del inputs
    maxima = {module: 1.0 + number for number, module in enumerate(made.plan.calibrated)}
    record.write(path, maxima, {"device": "a hand"})


class World:
    """All that rounds copy; made in this process, which is warm by it.

    `jobs` are one build, the same from another base, and the same verified further; `sums` is the
    SHA256SUMS of each. `release` is a signed release of the first, `released` one that is not
    signed; the keys are `key` and `key.pub`.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        one, other = local_base(root / "base"), local_base(root / "other-base")
        write_checkpoint(other, base_arrays(1))
        found = (
            Asked(name="one", base=one, level="none"),
            Asked(name="other base", base=other, level="none"),
            Asked(name="verified", base=one, level="structure"),
        )
        self.jobs = {asked.name: asked for asked in found}
        self.sums: dict[str, bytes] = {}
        # The results of the first job, each as a path below the store.
        self.results: list[Path] = []
        for asked in found:
            self.build(asked, self.store, self.out(asked.name))
            self.sums[asked.name] = (self.out(asked.name) / SUMS).read_bytes()
            self.results = self.results or [
                path.parent.relative_to(self.store) for path in self.store.glob("*/*/record.json")
            ]
        assert len(set(self.sums.values())) == 2
        # The file of the store that each file of a folder shares its bytes with.
        places = {_inode(path): path for path in self.store.glob("*/*/files/**/*")}
        self.linked = {
            name: {
                path.relative_to(self.out(name)): places[_inode(path)].relative_to(self.store)
                for path in self.out(name).rglob("*")
                if path.is_file()
            }
            for name in self.jobs
        }
        self.key = root / "key"
        self.release = shutil.copytree(self.out("one"), root / "release")
        assemble.assemble(self.release)
        keys.generate(self.key)
        self.released = shutil.copytree(self.release, root / "released")
        signing.sign(self.release, self.key)
        # How long a build takes on this machine, as busy as it is.
        start = time.monotonic()
        self.build(found[0], root / "timed", root / "outs" / "timed")
        self.seconds = time.monotonic() - start

    @staticmethod
    def build(asked: Asked, store: Path, out: Path) -> None:
        """Builds in this process."""
        job = asked.job(store)
        assert driver.build(job, out, here(job)) == 0

    @property
    def store(self) -> Path:
        """The store with the results of all jobs."""
        return self.root / "store"

    def out(self, name: str) -> Path:
        """The folder that a job's result was placed at."""
        return self.root / "outs" / name

    def copy_store(self, store: Path, state: str) -> None:
        """A store as it is in one of the `STATES`."""
        store.mkdir()
        for step in STATES[state]:
            shutil.copytree(self.store / step, store / step, symlinks=True)

    def copy_out(self, name: str, store: Path, out: Path) -> None:
        """A job's placed folder, linked into the store where that has the files."""
        for path, kept in self.linked[name].items():
            (out / path).parent.mkdir(parents=True, exist_ok=True)
            if (store / kept).exists():
                os.link(store / kept, out / path)
            else:
                shutil.copy2(self.out(name) / path, out / path)


def _inode(path: Path) -> int:
    return path.stat().st_ino


def digest(path: Path) -> str:
    """The sha256 of a file."""
    return sha256(path.read_bytes()).hexdigest()
