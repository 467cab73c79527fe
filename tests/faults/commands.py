"""The commands that are tried: how a world is made for each, how it is run, what it must leave.

A world has `store/`, what users have in `home/`, and the folder for temporary files `tmp/`; which
other folders a command has is said where it is prepared. All inputs lie in one folder that the
worlds share and nobody may change.
"""

import shutil
import ssl
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import released
from conftest import FLAGSHIP, base_arrays, record_by_hand, write_checkpoint
from faults import beside, shim
from faults.beside import Beside
from faults.worlds import Inventory, below
from huggingface_hub import constants

from assay.__main__ import app as assay
from assay.rebuild import preconditions, reproduce
from assay.release import rebuilders, steps, trust
from assay.release import verify as verify_release
from forge import driver, pipeline, remedies
from forge.__main__ import app as forge
from forge.__main__ import steps as steps_of_build
from forge.calibration import calibrate, record
from forge.core import checkout, commandline, hub_session, placing
from forge.core.results import Result
from forge.core.store import Store
from forge.inputs import fetch
from forge.manifest import document, provenance, sums
from forge.manifest.names import MODEL_SIGNATURE, PROVENANCE, SIGNATURES, SUMS
from forge.manifest.policy import KNOWN_BUILDERS, Policy
from forge.manifest.reproduction import Outcome
from forge.pipeline import Job, Work
from forge.recipes import recipe
from forge.release import assemble, card, keys, signing
from forge.release.placement import place

USERS = "notes.txt"  # a file of the user's own, beside what a command makes


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command under trial.

    `prepare` makes a world, `run` runs the command in it and ends by SystemExit. `units` are what
    it makes or replaces: whatever happens, each is whole, as it was or as it becomes, and all else
    outside the store and `tmp/` stays as it was. `varying` matches the files whose bytes differ
    from one run to the next; `check` tells what is wrong with those of a finished run. `title` is
    what docs/faults.md calls it.
    """

    name: str
    title: str
    prepare: Callable[[Path, Path], None]
    run: Callable[[Path, Path], None]
    units: tuple[str, ...]
    varying: str = r"store/.*/record\.json"
    passing: str = ""  # what may lie in a unit until the next run
    check: Callable[[Path], list[str]] = lambda _: []
    # The hub beside a world, whose repository is the unit `hub`; and whether a unit may be as it is
    # now, told all that is there now, was there before and is there in the end.
    beside: Callable[[Path], AbstractContextManager[Beside | None]] = lambda _: nullcontext()
    halfway: Callable[[str, Inventory, Inventory, Inventory], bool] = lambda *_: False


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
    """Fetches and calibrates."""
    job = fetch.choose(job)
    return job, pipeline.run(job, until="calibrate")


def calibrate_by_hand(work: Work, out: Path) -> None:
    """In place of forward passes, for which this environment has no library."""
    record_by_hand(out / record.FILE, work.checkpoint)


def inputs(folder: Path) -> None:
    """Two bases as small as they can be, a signing key, and a release of one base, signed by it."""
    released.local_base(folder / "base")
    write_checkpoint(released.local_base(folder / "other"), base_arrays(1))
    keys.generate(folder / "key")
    with TemporaryDirectory() as made:
        world = Path(made)
        job, results = calibrated(job_in(world, folder / "other"))
        place(pipeline.run(job, given=results), world / "out")
        assemble.assemble(world / "out")
        signing.sign(world / "out", folder / "key")
        shutil.copytree(world / "out", folder / "former")


def furnish(world: Path) -> None:
    """What every world has."""
    for name in ("home", "tmp"):
        (world / name).mkdir()
    (world / USERS).write_text("of the user\n", encoding="utf-8")


def prepare_build(fixed: Path, world: Path) -> None:
    """A calibrated store, and at `out/` a signed release of another base."""
    furnish(world)
    shutil.copytree(fixed / "former", world / "out")
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


def run_again(fixed: Path, world: Path) -> None:
    """Other documents, for which the signatures are given up."""
    del fixed
    card.notice = lambda _: "another notice"
    line(forge, "release", world / "out", "--replace")


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
    if not (world / "out" / PROVENANCE / MODEL_SIGNATURE).exists():
        return ["wrong: the model is not signed"]
    trusted = trust.by_key(world.parents[1] / "fixed" / "key.pub")
    demands = steps.Demands(trust=trusted, policy=Policy(builders=KNOWN_BUILDERS))
    return told(lambda: verify_release.verify(world / "out", demands, lambda _: None))


def check_own(world: Path) -> list[str]:
    """No file of a release shares its bytes with the store."""
    stored = {path.stat().st_ino for path in (world / "store").rglob("*")}
    files = [path for path in (world / "out").rglob("*") if path.is_file()]
    return [f"shared: {path}" for path in files if path.stat().st_ino in stored]


def check_report(world: Path) -> list[str]:
    """Reads the report of a rebuild, which has a time in it, and compares it with the release."""

    def check() -> None:
        found = document.read(Outcome, world / "report.json")
        if not found.identical or found.files != sums.read(world / "out" / PROVENANCE / SUMS):
            raise ValueError("the report is not that of this release")

    return told(check)


def check_statement(world: Path) -> list[str]:
    """Verifies the statement of a rebuild."""
    (path,) = (world / "statements").glob("[!.]*")
    key = trust.by_key(world.parents[1] / "fixed" / "key.pub")
    return told(lambda: key.check(path.read_bytes(), str(path)))


def told(check: Callable[[], object]) -> list[str]:
    """What a check says that refuses by an error."""
    try:
        check()
    except Exception as error:
        return [f"wrong: {error}"]
    return []


def prepare_publish(fixed: Path, world: Path) -> None:
    """A signed release, and the list of an earlier one beside it."""
    released_(fixed, world)
    (world / "out.files").write_text("of before\n", encoding="utf-8")


def run_publish(fixed: Path, world: Path) -> None:
    del fixed
    constants.HF_HUB_OFFLINE = False
    constants.HF_HUB_DISABLE_XET = True  # the hub of these tests speaks LFS
    line(forge, "publish", world / "out", beside.REPO, "--confirm", "--rehearsal")


def hub_with_former(fixed: Path) -> AbstractContextManager[Beside]:
    """A hub that has a signed release of another base already."""
    former = fixed / "former"
    names = (path for path in former.rglob("*") if path.is_file())
    return beside.hub({path.relative_to(former).as_posix(): path.read_bytes() for path in names})


def unsigned(unit: str, now: Inventory, before: Inventory, after: Inventory) -> bool:
    """Whether a repository has the release without its signatures, or nothing of one yet."""
    del before
    signatures = {f"hub/{name}" for name in SIGNATURES}
    content = {name: what for name, what in below(after, unit).items() if name not in signatures}
    there = below(now, unit)
    return unit == "hub" and (there == content or there.keys() == {"hub/.gitattributes"})


def prepare_damaged(fixed: Path, world: Path) -> None:
    """A build whose store and folder are as killed processes and failing disks leave them."""
    prepare_build(fixed, world)
    job, results = calibrated(job_in(world, fixed / "base"))
    made = pipeline.run(job, given=results)
    (made["quantize"].files / "tensors.jsonl").write_text("rotten", encoding="utf-8")
    made["dress"].files.with_name("record.json").write_bytes(b"")
    for name in (
        "store/tmp/verify-0-killed/made",
        "store/trash/graft-0-killed",
        ".out.hallmark-new/x",
    ):
        (world / name).mkdir(parents=True)
        (world / name / "left").write_text("half", encoding="utf-8")


def prepare_made(fixed: Path, world: Path) -> None:
    """A store that has all results of a build, and at `out/` a signed release of another base."""
    prepare_build(fixed, world)
    job, results = calibrated(job_in(world, fixed / "base"))
    pipeline.run(job, given=results)


def run_build_without_exchange(fixed: Path, world: Path) -> None:
    placing.exchange = lambda *_: False
    run_build(fixed, world)


def run_build_after_kill(fixed: Path, world: Path) -> None:
    """Begins where one was killed between its two renames, and meets the fault on top of that."""
    shim.rename(world / "out", world / ".out.hallmark-old")
    run_build_without_exchange(fixed, world)


def put_away(unit: str, now: Inventory, before: Inventory, after: Inventory) -> bool:
    """Whether the old folder lies beside its place, whole, where the next run finds it."""
    del after
    old = below(now, f".{unit}.hallmark-old")
    was = {
        name.replace(unit, f".{unit}.hallmark-old", 1): what
        for name, what in below(before, unit).items()
    }
    return not below(now, unit) and old == was


RECORDS = r"store/.*/record\.json"
BUILD = Command(
    name="build",
    title="build, in place of a signed release",
    prepare=prepare_build,
    run=run_build,
    units=("out",),
    varying=RECORDS + r"|(out/provenance|store/attest/\w+/files)/provenance\.json",
    check=check_build,
)
RELEASE = Command(
    name="release",
    title="release",
    prepare=built,
    run=lambda _, world: line(forge, "release", world / "out"),
    units=("out",),
    check=check_own,
)
AGAIN = replace(
    RELEASE,
    name="release-again",
    title="release, with other documents, in place of a signed release",
    prepare=released_,
    run=run_again,
)
SIGN = Command(
    name="sign",
    title="sign, the model as well, in place of other signatures",
    prepare=prepare_sign,
    run=lambda fixed, world: line(
        forge, "sign", world / "out", "--key", fixed / "key", "--model-signature"
    ),
    units=("out",),
    varying=RECORDS + r"|out/provenance/(.*\.sigstore\.json|model\.sig)",
    check=lambda world: check_signed(world) + check_own(world),
)
REPRODUCE = Command(
    name="reproduce",
    title="reproduce",
    prepare=prepare_reproduce,
    run=run_reproduce,
    units=("report.json",),
    varying=RECORDS + r"|report\.json",
    check=check_report,
)
ATTEST = Command(
    name="attest-reproduction",
    title="attest-reproduction",
    prepare=prepare_attest,
    run=run_attest,
    units=("statements",),
    varying=RECORDS + r"|statements/.*",
    passing=r"statements/\.[^/]+\.hallmark-(lock|new)",
    check=check_statement,
)
PUBLISH = Command(
    name="publish",
    title="publish, over another release",
    prepare=prepare_publish,
    run=run_publish,
    units=("out.files", "hub"),
    beside=hub_with_former,
    halfway=unsigned,
)
FIRST = replace(
    PUBLISH,
    name="publish-first",
    title="publish, into a new repository",
    beside=lambda _: beside.hub({}),
)
DAMAGED = replace(
    BUILD,
    name="build-from-damage",
    title="build, over a damaged store and what killed builds left",
    prepare=prepare_damaged,
)
WITHOUT_EXCHANGE = replace(
    BUILD,
    name="build-without-exchange",
    title="build, where folders cannot be exchanged in one operation",
    prepare=prepare_made,
    run=run_build_without_exchange,
    halfway=put_away,
)

AFTER_KILL = replace(
    WITHOUT_EXCHANGE,
    name="build-after-kill",
    title="build, after a kill between the two renames that are done instead",
    run=run_build_after_kill,
)
COMMANDS = (
    BUILD,
    DAMAGED,
    WITHOUT_EXCHANGE,
    AFTER_KILL,
    RELEASE,
    AGAIN,
    SIGN,
    REPRODUCE,
    ATTEST,
    PUBLISH,
    FIRST,
)


def warm() -> None:
    """Learns once what every trial would learn anew of this checkout and its environment.

    Both stay as they are while trials run, and reading them is most of what a small build does.
    The step calibrate, which needs torch, is replaced here; all others are the real ones.
    """
    calibrate.run = calibrate_by_hand
    pipeline.code_of = cache(pipeline.code_of)
    pipeline.module_of = cache(pipeline.module_of)
    checkout.commit = cache(checkout.commit)
    ssl.create_default_context = cache(ssl.create_default_context)
    # The waits before another try are not what is tried.
    hub_session.sleep = lambda _: None
