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
from conftest import FLAGSHIP, base_arrays, record_by_hand, write_checkpoint
from faults.commands import here
from huggingface_hub import constants
from released import local_base

from forge import driver, pipeline
from forge.calibration import calibrate
from forge.calibration.batches import Bar
from forge.core import checkout, console
from forge.core.model import Level
from forge.core.store import Store
from forge.inputs import fetch
from forge.pipeline import Job
from forge.recipes import recipe
from forge.release import assemble, keys, signing
from forge.release.placement import place

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
        patched.setattr(constants, "HF_HUB_OFFLINE", True)
        yield


def _by_hand(made: "Checkpoint", inputs: Path, path: Path, bar: Bar) -> None:
    del inputs, bar
    record_by_hand(path, made)


class World:
    """All that rounds copy; made in this process, which is warm by it.

    `jobs` are one build, the same from another base, and the same verified further; `sums` is the
    SHA256SUMS of each. `release` is a signed release of the first, `released` one that is not
    signed; the keys are `key` and `key.pub`.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.key = root / "key"
        self.release, self.released = root / "release", root / "released"
        self.jobs: dict[str, Asked] = {}
        self.sums: dict[str, bytes] = {}
        # The results of the first job, each as a path below the store.
        self.results: list[Path] = []
        with (
            Path(os.devnull).open("w", encoding="utf-8") as nowhere,
            pytest.MonkeyPatch.context() as patched,
        ):
            patched.setattr(console._console, "file", nowhere)
            self._build_all()
            self._release()
            # How long a build takes on this machine, as busy as it is.
            start = time.monotonic()
            self.build(self.jobs["one"], root / "timed", root / "outs" / "timed")
            self.seconds = time.monotonic() - start

    def _build_all(self) -> None:
        one, other = local_base(self.root / "base"), local_base(self.root / "other-base")
        write_checkpoint(other, base_arrays(1))
        for asked in (
            Asked(name="one", base=one, level="none"),
            Asked(name="other base", base=other, level="none"),
            Asked(name="verified", base=one, level="structure"),
        ):
            self.build(asked, self.store, self.out(asked.name))
            self.jobs[asked.name] = asked
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

    def _release(self) -> None:
        shutil.copytree(self.out("one"), self.release)
        assemble.assemble(self.release)
        shutil.copytree(self.release, self.released)
        keys.generate(self.key)
        signing.sign(self.release, self.key)

    @staticmethod
    def build(asked: Asked, store: Path, out: Path) -> None:
        """Builds in this process, which stays what it is: no command line takes it over."""
        job = fetch.choose(asked.job(store))
        place(pipeline.run(job), out)

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
