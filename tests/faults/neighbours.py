"""Rounds of neighbours: commands that run at the same time on one store, or at one folder.

Each round begins with a store and folders of its own, in one of several states, and starts two or
three commands at moments that the seed decides; some are stopped for a while, some killed. Then
what is left is judged from the files, a next build runs, and what is left is judged once more.
"""

import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from faults import beside, evidence, world
from faults.beside import Beside
from faults.evidence import Wrong
from faults.processes import STOPS, Actor, Ended, alone, together
from faults.report import Row
from faults.world import STATES, World
from huggingface_hub import constants

from assay import __main__ as assay
from forge import __main__ as forge
from forge.core.results import Result
from forge.core.store import Store

SEED = 14
WAIT = 0.25  # seconds from a lock that somebody has to his end
KEPT = 3  # rounds of a kind that are kept when they went wrong
MEMORY = Path("/dev/shm")  # noqa: S108 - where a flush to the disk costs nothing
# What one of two builders with different results is told, and nobody else.
OVERTAKEN = "another build, with another result, was placed there while this one ran"
# What a rebuilder is told of a release that was replaced, before it began or after.
OTHER_BASE = "base/model-00001-of-00002.safetensors (from local:base#"
REPLACED = "another release was put in its place while it was rebuilt"
# What one of a builder and a signer is told, if the other came first.
SIGNED = "is signed (provenance/provenance.sigstore.json, "
NO_RELEASE = "has no provenance/release.json, so it is no release yet"
# What a publisher is told of a release that changes, or is replaced by a build, meanwhile.
CHANGES = (
    "was changed after it was checked, so it is not published",
    "was changed since it was made a release",
    "changed while it was read",
    "changed since this command began",
    "another folder took its place while it was checked",
)
NOT_SIGNED = "so it is not signed"
# What is told of a store whose disk fails.
ROTTEN = "which makes that anew"
DAMAGED = "results were damaged: "


@dataclass(kw_only=True)
class Scene:
    """A round: its chance, its store, and the folder that its outs lie in."""

    world: World
    chance: random.Random
    folder: Path
    state: str = "empty"
    # Whether a record was cut, so that its result is set aside and stays there.
    aside: bool = False
    # Whether a bit of the store flipped, so that all may be refused.
    rots: bool = False
    actors: list[Actor] = field(default_factory=list)
    # What the next build at each folder is, if not any.
    following: str | None = None
    # Of each folder the jobs whose result may be there in the end.
    outs: dict[str, set[str]] = field(default_factory=dict)
    # What else lies beside those folders, by name, and a hub with one repository, if there is one.
    beside: set[str] = field(default_factory=set)
    hub: Beside | None = None
    ending: ExitStack = field(default_factory=ExitStack)

    @property
    def store(self) -> Path:
        """The store."""
        return self.folder / "store"

    @property
    def logs(self) -> Path:
        """Where it is kept what the commands say."""
        return self.folder / "logs"

    def out(self, name: str = "out") -> Path:
        """A folder that builds are placed at."""
        return self.folder / "outs" / name

    def prepare(self, *states: str) -> None:
        """Makes the store, in one of some states."""
        self.logs.mkdir(parents=True)
        (self.folder / "outs").mkdir()
        self.state = self.chance.choice(states or tuple(STATES))
        self.world.copy_store(self.store, self.state)

    def place(self, job: str, name: str = "out") -> None:
        """Puts a job's folder there, as an earlier build left it."""
        self.world.copy_out(job, self.store, self.out(name))

    def damage(self) -> None:
        """Cuts a record of the first job, or changes a file; the next that builds it notices."""
        if (record := self._a_record()) is None:
            return
        if (path := self._a_file(record)) and self.chance.random() < 0.5:
            data = path.read_bytes() + b"."
            path.unlink()  # a folder that shares its bytes keeps them
            path.write_bytes(data)
        else:
            record.write_bytes(record.read_bytes()[: self.chance.randrange(100)])
            self.aside = True

    def rot(self) -> bool:
        """Flips a bit of a file of the first job, whose size and time stay; whether there is one.

        Whoever hashes it says so; a folder that shares its bytes keeps them.
        """
        record = self._a_record()
        if record is None or (path := self._a_file(record)) is None:
            return False
        data, status = bytearray(path.read_bytes()), path.stat()
        data[-1] ^= 1
        path.unlink()
        path.write_bytes(data)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        return True

    def _a_record(self) -> Path | None:
        there = [self.store / path for path in self.world.results if (self.store / path).exists()]
        return self.chance.choice(there) / "record.json" if there else None

    def _a_file(self, record: Path) -> Path | None:
        found = (path for path in record.parent.glob("files/**/*") if path.is_file())
        files = sorted(path for path in found if not path.is_symlink() and path.stat().st_size)
        return self.chance.choice(files) if files else None

    def builder(
        self, name: str, job: str, out: str = "out", *, replace: bool = False, **more: object
    ) -> None:
        """Adds a builder, and that its result may be at the folder in the end."""
        asked = self.world.jobs[job]
        self.outs.setdefault(out, set()).add(job)
        work = partial(world.build, asked, self.store, self.out(out), replace=replace)
        self.actor(name, work, **more)

    def actor(self, name: str, work: Callable[[], object], **more: object) -> None:
        """Adds a command that begins at once, or anywhere in the time that two builds take."""
        seconds = self.world.seconds
        after = self.chance.uniform(0, seconds * self.chance.choice((0.0, 0.05, 1.0, 2.0)))
        pauses = []
        if self.chance.random() < 0.4:
            pauses.append((self.chance.uniform(0, seconds), self.chance.uniform(0.01, seconds)))
        given = {"after": after, "pauses": pauses, **more}
        self.actors.append(Actor(name=name, work=work, **given))

    def forge(self, *arguments: object) -> Callable[[], object]:
        """A command of forge."""
        return partial(forge.app, [str(one) for one in arguments])

    def assay(self, *arguments: object) -> Callable[[], object]:
        """A command of assay."""
        return partial(assay.app, [str(one) for one in arguments])


def one_job_at_one_out(scene: Scene) -> None:
    """Both end well, whoever places it."""
    scene.prepare()
    if scene.chance.random() < 0.5:
        scene.place("one")
    if scene.chance.random() < 0.2:
        scene.damage()
    scene.builder("first", "one")
    scene.builder("second", "one")


def one_job_at_two_outs(scene: Scene) -> None:
    """Both end well."""
    scene.prepare()
    if scene.chance.random() < 0.3:
        scene.damage()
    scene.builder("first", "one", "here")
    scene.builder("second", "one", "there")


def two_jobs_at_one_out(scene: Scene) -> None:
    """One is placed whole; the other was before, or is refused."""
    scene.prepare()
    first, second = scene.chance.sample(sorted(scene.world.jobs), 2)
    if scene.chance.random() < 0.3:
        scene.place(scene.chance.choice(sorted(scene.world.jobs)))
    late = scene.chance.uniform(0, 3 * scene.world.seconds)
    scene.builder("first", first, refusals=(OVERTAKEN,))
    scene.builder("second", second, refusals=(OVERTAKEN,), after=late)


def a_release_reproduced(scene: Scene) -> None:
    """Reproducing ends well beside a build, and beside another that reproduces the same.

    Of a release that the build replaces meanwhile, it says so, or that the base is another's.
    """
    scene.prepare()
    job = scene.chance.choice(sorted(scene.world.jobs))
    release, refusals = scene.world.release, ()
    if scene.chance.random() < 0.5:
        scene.place("one")
        scene.outs["out"] = {"one"}
        release, refusals = scene.out(), (REPLACED, OTHER_BASE)
    scene.builder("builder", job)
    reproduce = scene.assay(
        "reproduce", release, "--store", scene.store, "--base", scene.world.jobs["one"].base
    )
    scene.actor("reproducer", reproduce, refusals=refusals)
    if scene.chance.random() < 0.3:
        scene.actor("another", reproduce, refusals=refusals)


def a_builder_killed(scene: Scene) -> None:
    """The other goes on, also where it waited for the lock of the killed one."""
    scene.prepare()
    if scene.chance.random() < 0.3:
        scene.place("verified")
    out = scene.chance.choice(("out", "there"))
    scene.following = "one"  # by which its lock files go as well
    missing = [step for step in STATES["full"] if step not in STATES[scene.state]]
    if missing and scene.chance.random() < 0.5:
        killed_with_a_lock(scene, scene.chance.choice(missing), out)
        return
    killed = scene.chance.uniform(0, 1.5 * scene.world.seconds)
    by = scene.chance.choice((signal.SIGKILL, signal.SIGKILL, *STOPS))
    scene.builder("killed", "one", out, killed=killed, by=by, after=0.0, pauses=())
    scene.builder("builder", "one")


def killed_with_a_lock(scene: Scene, step: str, out: str = "out") -> None:
    """A builder that is killed as it begins a step, while another waits for it."""
    begun = scene.folder / "begun"

    def die() -> None:
        begun.touch()
        time.sleep(WAIT)
        os.kill(os.getpid(), signal.SIGKILL)

    first, second = (
        partial(world.build, scene.world.jobs["one"], scene.store, scene.out(name))
        for name in (out, "out")
    )
    scene.outs |= {out: {"one"}, "out": {"one"}}
    scene.actors = [
        Actor(name="killed", work=partial(at, step, die, first), dies=True),
        Actor(name="builder", work=partial(after, begun, second)),
    ]


def at(step: str, act: Callable[[], None], build: Callable[[], object]) -> None:
    """Runs a build that acts as it begins a step; for a process of its own."""
    make = Store.make

    def acting(self: Store, name: str, *arguments: Any) -> Result:
        if name == step:
            act()
        return make(self, name, *arguments)

    Store.make = acting
    build()


def after(begun: Path, work: Callable[[], object]) -> None:
    """Runs a command when a file is there."""
    while not begun.exists():
        time.sleep(WAIT / 50)
    work()


def a_store_collected(scene: Scene) -> None:
    """What builders and rebuilders use stays, or is made anew by them; nobody is told of it."""
    scene.prepare()
    if scene.chance.random() < 0.5:
        scene.place("one")
    missing = [step for step in STATES["full"] if step not in STATES[scene.state]]
    if missing and scene.chance.random() < 0.5:
        collected_before(scene, scene.chance.choice(missing))
        return
    scene.builder("builder", scene.chance.choice(sorted(scene.world.jobs)))
    scene.actor("collector", collect(scene))
    if scene.chance.random() < 0.3:
        scene.actor("another", collect(scene))
    if scene.chance.random() < 0.3:
        reproduce = scene.assay(
            "reproduce", scene.world.release, "--store", scene.store,
            "--base", scene.world.jobs["one"].base,
        )  # fmt: skip
        scene.actor("reproducer", reproduce)


def collected_before(scene: Scene, step: str) -> None:
    """A builder that waits before a step until all was collected that can be."""
    begun, gone = scene.folder / "begun", scene.folder / "gone"

    def wait() -> None:
        begun.touch()
        after(gone, int)

    def work() -> None:
        try:
            after(begun, collect(scene))
        finally:
            gone.touch()

    build = partial(world.build, scene.world.jobs["one"], scene.store, scene.out())
    scene.outs["out"] = {"one"}
    scene.actors = [
        Actor(name="builder", work=partial(at, step, wait, build)),
        Actor(name="collector", work=work),
    ]


def collect(scene: Scene) -> Callable[[], object]:
    """The command that removes all that nothing needs, also what a build used just now."""
    return scene.forge(
        "store", "gc", "--store", scene.store, "--days=0", "--calibrations", "--confirm"
    )


def a_store_checked(scene: Scene) -> None:
    """All that is stored is whole; where it rots, one of them or both say so, in one line each."""
    scene.prepare()
    scene.rots = scene.chance.random() < 0.3 and scene.rot()
    job = scene.chance.choice(sorted(scene.world.jobs))
    scene.builder("builder", job, refusals=(ROTTEN,) if scene.rots else ())
    check = scene.forge("store", "fsck", "--store", scene.store)
    scene.actor("checker", check, refusals=(DAMAGED,) if scene.rots else ())


def a_release_made(scene: Scene) -> None:
    """It is made of what is there, before or after another build takes the place."""
    scene.prepare("full", "calibrated")
    scene.place("one")
    scene.outs["out"] = {"one"}
    scene.actor("release", scene.forge("release", scene.out()))
    scene.builder("builder", scene.chance.choice(sorted(scene.world.jobs)))
    if scene.chance.random() < 0.5:
        scene.actor("another", scene.forge("release", scene.out()))


def a_release_signed(scene: Scene) -> None:
    """It is signed, or replaced; what is signed is not replaced unasked."""
    scene.prepare("full", "calibrated")
    shutil.copytree(scene.world.released, scene.out())
    scene.outs["out"] = {"one"}
    sign = scene.forge("sign", scene.out(), "--key", scene.world.key)
    scene.actor("signer", sign, refusals=(NO_RELEASE,))
    other = scene.chance.random()
    if other < 0.3:
        scene.actor("another", sign, refusals=(NO_RELEASE,))
    elif other < 0.6:
        scene.actor("release", scene.forge("release", scene.out()))
    scene.builder(
        "builder",
        scene.chance.choice(sorted(scene.world.jobs)),
        refusals=(SIGNED,),
        replace=scene.chance.random() < 0.3,
    )


def a_release_published(scene: Scene) -> None:
    """What the hub gets is one whole release, or nothing; who changes it meanwhile is told of."""
    scene.prepare("full", "calibrated")
    neighbour = scene.chance.choice(("builder", "signer", "writer", "nobody"))
    refusals = () if neighbour == "nobody" else CHANGES
    if neighbour in {"builder", "signer"}:
        scene.outs["out"] = {"one"}
    if neighbour == "builder":
        scene.builder("builder", scene.chance.choice(sorted(scene.world.jobs)), replace=True)
        refusals = (*CHANGES, NO_RELEASE, NOT_SIGNED)
    published(scene, refusals)
    if neighbour == "signer":
        scene.actor("signer", scene.forge("sign", scene.out(), "--key", scene.world.key))
    elif neighbour == "writer":
        path = scene.chance.choice(sorted(scene.out().glob("*.*")))
        scene.actor("writer", partial(write_into, path))


def published(scene: Scene, refusals: Sequence[str]) -> None:
    """Has a signed release at the folder published on a hub."""
    shutil.copytree(scene.world.release, scene.out())
    scene.hub = scene.ending.enter_context(beside.hub({}))
    scene.beside = {"out", "out.files"}
    line = scene.forge("publish", scene.out(), beside.REPO, "--confirm", "--rehearsal")
    scene.actor("publisher", partial(publish, scene.hub, line), refusals=refusals, pauses=())


def publish(hub: Beside, line: Callable[[], object]) -> None:
    """Runs a command that asks a hub; for a process of its own."""
    os.environ |= hub.env
    constants.HF_HUB_OFFLINE = False
    constants.HF_HUB_DISABLE_XET = True  # the hub of these tests speaks LFS
    line()


def write_into(path: Path) -> None:
    """Changes a file as an editor does that writes in place."""
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    with path.open("r+b") as file:
        file.write(data)


KINDS: Mapping[str, Callable[[Scene], None]] = {
    "two builders of one job at one folder": one_job_at_one_out,
    "two builders of one job at two folders": one_job_at_two_outs,
    "two builders of different jobs at one folder": two_jobs_at_one_out,
    "reproduce beside a builder": a_release_reproduced,
    "release beside a builder at its folder": a_release_made,
    "sign beside a builder at its folder": a_release_signed,
    "publish beside others at its folder": a_release_published,
    "store gc beside a builder": a_store_collected,
    "store fsck beside a builder": a_store_checked,
    "a builder killed beside another": a_builder_killed,
}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a round: what is wrong, and whether a command was refused."""

    refused: bool
    wrong: tuple[Wrong, ...]


def rounds(kind: str, made: World, count: int, seed: int, kept: Path) -> Row:
    """Runs some rounds of a kind; the folders of the first that go wrong are copied to `kept`."""
    row = Row(part="neighbours", name=kind)
    began = time.monotonic()
    with memory() as root:
        for number in range(count):
            folder = root / f"round-{number}"
            outcome = round_of(kind, made, number, seed, folder)
            row.counts["trials"] += 1
            row.counts["wrong" if outcome.wrong else "refused" if outcome.refused else "same"] += 1
            row.counts.update({category for category, _ in outcome.wrong})
            row.findings += [f"{what}: round {number}: {said}" for what, said in outcome.wrong]
            if outcome.wrong and row.counts["wrong"] <= KEPT:
                shutil.rmtree(kept / kind / folder.name, ignore_errors=True)
                shutil.copytree(folder, kept / kind / folder.name, symlinks=True)
            shutil.rmtree(folder)
    row.seconds = time.monotonic() - began
    return row


def round_of(kind: str, made: World, number: int, seed: int, folder: Path) -> Outcome:
    """Runs one round; its chance depends on seed, kind and number alone."""
    chance = random.Random(f"{seed} {kind} {number}")  # noqa: S311 - chance, and no secret
    scene = Scene(world=made, chance=chance, folder=folder)
    with scene.ending:
        KINDS[kind](scene)
        ended = together(scene.actors, scene.logs)
        wrong = [*_judged(scene, ended), *_next(scene)]
    return Outcome(refused=any(one.errors for one in ended.values()), wrong=tuple(wrong))


def _judged(scene: Scene, ended: Mapping[str, Ended]) -> Iterator[Wrong]:
    for actor in scene.actors:
        yield from evidence.of_the_end(actor, ended[actor.name])
    if not scene.rots and all(one.errors for one in ended.values()):
        yield "wedged", "all were refused"
    yield from evidence.of_a_store(scene.store)
    if scene.hub is not None:
        yield from evidence.of_a_hub(scene.hub.commits(), scene.folder / "hub", scene.world)
    for name, jobs in scene.outs.items():
        # Where its only builder was killed, there may be nothing, or what was there before.
        if _is_due(scene, ended, name):
            yield from evidence.of_an_out(scene.out(name), scene.world, jobs)
        elif scene.out(name).exists():
            yield from evidence.of_an_out(scene.out(name), scene.world, scene.world.jobs)


def _is_due(scene: Scene, ended: Mapping[str, Ended], out: str) -> bool:
    """Whether a builder said that its result is at a folder."""
    place = f"{scene.out(out)} is "
    return any(one.code == 0 and place in one.said for one in ended.values())


def _next(scene: Scene) -> Iterator[Wrong]:
    """A build at each folder ends well, and nothing is left of those before."""
    for name in scene.outs:
        job = scene.following or scene.chance.choice(sorted(scene.world.jobs))
        asked = scene.world.jobs[job]
        work = partial(world.build, asked, scene.store, scene.out(name), replace=True)
        actor = Actor(name=f"next at {name}", work=work)
        ended = alone(actor.name, work, scene.logs)
        yield from (("wedged", said) for _, said in evidence.of_the_end(actor, ended))
        yield from evidence.of_an_out(scene.out(name), scene.world, {job})
    yield from evidence.of_a_store(scene.store)
    yield from evidence.of_leftovers(
        scene.store, scene.folder / "outs", {*scene.outs, *scene.beside}, aside=scene.aside
    )


@contextmanager
def memory() -> Iterator[Path]:
    """A folder for worlds and rounds, in memory where there is some."""
    where = MEMORY if MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(dir=where, prefix="hallmark-neighbours-") as folder:
        yield Path(folder)


@contextmanager
def warm() -> Iterator[World]:
    """A world for rounds, which are forked from this process within."""
    with world.warm(), memory() as root:
        yield World(root / "world")
