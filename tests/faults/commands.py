"""The commands that are tried: how a world is made for each, how it is run, what it must leave.

A world has `store/`, what users have in `home/`, and the folder for temporary files `tmp/`; which
other folders a command has is said where it is prepared. All inputs lie in one folder that the
worlds share and nobody may change.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import released
from conftest import FLAGSHIP, base_arrays, write_checkpoint

from assay.__main__ import app as assay
from assay.rebuild import preconditions, reproduce
from assay.release import rebuilders, steps, trust
from assay.release import verify as verify_release
from forge import driver, pipeline, remedies
from forge.__main__ import app as forge
from forge.__main__ import steps as steps_of_build
from forge.calibration import record
from forge.core import checkout, commandline
from forge.core.store import Result, Store
from forge.inputs import fetch
from forge.manifest import document, provenance
from forge.pipeline import Job
from forge.recipes import recipe
from forge.release import assemble, keys, signing
from forge.release.folder import place

USERS = "notes.txt"  # a file of the user's own, beside what a command makes


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command under trial.

    `prepare` makes a world, `run` runs the command in it and ends by SystemExit. `units` are what
    it makes or replaces: whatever happens, each is whole, as it was or as it becomes, and all else
    outside the store and `tmp/` stays as it was. `varying` matches the files whose bytes differ
    from one run to the next; `check` tells what is wrong with those of a finished run.
    """

    name: str
    prepare: Callable[[Path, Path], None]
    run: Callable[[Path, Path], None]
    units: tuple[str, ...]
    varying: str = r"store/.*/record\.json"
    check: Callable[[Path], list[str]] = lambda _: []


class Here:
    """A runner that runs the steps of an environment in this process, by the hidden command."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, environment: str, ledger: Path, fetched: Result) -> int:
        """As the runner of this machine does, which starts a process."""
        del fetched
        try:
            commandline.run(
                lambda: steps_of_build(ledger, environment), remedies.remedy, tell_code=False
            )
        except SystemExit as ended:
            return ended.code


@contextmanager
def here(job: Job) -> Iterator[Here]:
    with job.store.scratch("ledger") as folder:
        yield Here(folder)


def job_in(world: Path, base: Path) -> Job:
    return Job(
        recipe=recipe.find(FLAGSHIP),
        store=Store(world / "store"),
        rehearsal=True,
        base=base,
        level="structure",
    )


def calibrated(job: Job) -> tuple[Job, dict[str, Result]]:
    """Fetches, and puts a calibration record into the store that no library has measured."""
    job = fetch.choose(job)
    results = pipeline.run(job, until="fetch")
    step = next(one for one in pipeline.STEPS if one.name == "calibrate")
    work = replace(pipeline.work_on(job, results), needed=results)
    module = pipeline.module_of(step.name)
    maxima = {name: 1.0 + number for number, name in enumerate(work.checkpoint.plan.calibrated)}
    results[step.name] = pipeline.kept(
        job.store,
        step.name,
        {
            **pipeline.code_of(module.__name__),
            "parameters": module.parameters(work),
            "needs": step.inputs(results),
        },
        lambda out: record.write(out / record.FILE, maxima, {"device": "a hand"}),
    )
    return job, results


def inputs(folder: Path) -> None:
    """Two bases of the flagship's architecture, as small as they can be, and a signing key."""
    released.local_base(folder / "base")
    write_checkpoint(released.local_base(folder / "other"), base_arrays(1))
    keys.generate(folder / "key")


def furnish(world: Path) -> None:
    """What every world has."""
    for name in ("home", "tmp"):
        (world / name).mkdir()
    (world / USERS).write_text("of the user\n", encoding="utf-8")


def prepare_build(fixed: Path, world: Path) -> None:
    """A calibrated store, and at `out/` a signed release of another base."""
    furnish(world)
    job, results = calibrated(job_in(world, fixed / "other"))
    place(pipeline.run(job, given=results), world / "out")
    assemble.assemble(world / "out")
    signing.sign(world / "out", fixed / "key")
    calibrated(job_in(world, fixed / "base"))


def run_build(fixed: Path, world: Path) -> None:
    job = job_in(world, fixed / "base")

    def build() -> None:
        sys.exit(driver.build(job, world / "out", here(job), replace=True))

    commandline.run(build, remedies.remedy)


def built(fixed: Path, world: Path) -> None:
    """A build at `out/`, which shares its bytes with the store."""
    furnish(world)
    job, results = calibrated(job_in(world, fixed / "base"))
    place(pipeline.run(job, given=results), world / "out")


def released_(fixed: Path, world: Path) -> None:
    """A signed release at `out/`."""
    built(fixed, world)
    assemble.assemble(world / "out")
    signing.sign(world / "out", fixed / "key")


def prepare_sign(fixed: Path, world: Path) -> None:
    """A release that was signed before, by another key."""
    released_(fixed, world)
    keys.generate(world / "former")
    signing.sign(world / "out", world / "former")


def prepare_reproduce(fixed: Path, world: Path) -> None:
    """A signed release, the store that it was built in, and the report of another rebuild."""
    released_(fixed, world)
    (world / "report.json").write_text("{}\n", encoding="utf-8")


def prepare_attest(fixed: Path, world: Path) -> None:
    """A signed release, the report of its rebuild, and a statement that was made before."""
    released_(fixed, world)
    found = reproduce.run(world / "out", Store(world / "store"), base=fixed / "base")
    document.write(world / "report.json", found.outcome)
    rebuilders.attest_reproduction(
        world / "out", world / "report.json", fixed / "key", None, world / "statements"
    )


def line(app: Callable[[], None], *words: str | Path) -> None:
    """Runs a command line as it was typed."""
    sys.argv = ["hallmark", *map(str, words)]
    commandline.run(app, remedies.remedy)


def run_reproduce(fixed: Path, world: Path) -> None:
    line(
        assay, "reproduce", world / "out", "--base", fixed / "base", "--store", world / "store",
        "--report", world / "report.json",
    )  # fmt: skip


def run_attest(fixed: Path, world: Path) -> None:
    line(
        assay, "attest-reproduction", world / "out", world / "report.json", "--key", fixed / "key",
        "--out", world / "statements",
    )  # fmt: skip


def check_build(world: Path) -> list[str]:
    """Holds the manifest, which has times in it, to the files beside it."""
    folder = world / "out" / "provenance"
    return told(lambda: preconditions.require_whole(provenance.read(folder), folder))


def check_signed(world: Path) -> list[str]:
    """Verifies the release as a stranger does, by the key that signs in all worlds."""
    demands = steps.Demands(trust=trust.by_key(world.parents[1] / "fixed" / "key.pub"))
    return told(lambda: verify_release.verify(world / "out", demands, lambda _: None))


def check_statement(world: Path) -> list[str]:
    """Verifies the statement of a rebuild."""
    (path,) = (world / "statements").iterdir()
    key = trust.by_key(world.parents[1] / "fixed" / "key.pub")
    return told(lambda: key.check(path.read_bytes(), str(path)))


def told(check: Callable[[], object]) -> list[str]:
    """What a check says that refuses by an error."""
    try:
        check()
    except Exception as error:
        return [f"wrong: {error}"]
    return []


RECORDS = r"store/.*/record\.json"
BUILD = Command(
    name="build",
    prepare=prepare_build,
    run=run_build,
    units=("out",),
    varying=RECORDS + r"|(out/provenance|store/attest/\w+/files)/provenance\.json",
    check=check_build,
)
RELEASE = Command(
    name="release",
    prepare=built,
    run=lambda _, world: line(forge, "release", world / "out"),
    units=("out",),
)
SIGN = Command(
    name="sign",
    prepare=prepare_sign,
    run=lambda fixed, world: line(forge, "sign", world / "out", "--key", fixed / "key"),
    units=("out",),
    varying=RECORDS + r"|out/provenance/.*\.sigstore\.json",
    check=check_signed,
)
REPRODUCE = Command(
    name="reproduce", prepare=prepare_reproduce, run=run_reproduce, units=("report.json",)
)
ATTEST = Command(
    name="attest-reproduction",
    prepare=prepare_attest,
    run=run_attest,
    units=("statements",),
    varying=RECORDS + r"|statements/.*",
    check=check_statement,
)
COMMANDS = (BUILD, REPRODUCE)


def warm() -> None:
    """Learns once what every trial would learn anew of this checkout and its environment.

    Both stay as they are while trials run, and reading them is most of what a small build does.
    """
    pipeline.code_of = cache(pipeline.code_of)
    checkout.commit = cache(checkout.commit)
