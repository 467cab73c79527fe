"""Commands beside each other: a few rounds of each kind, and what it takes for a round to fail.

All rounds run by `make faults`. The faults here are patched into the processes of a round.
"""

import os
import re
import shutil
import signal
import sys
import time
from contextlib import contextmanager, nullcontext

import pytest
from faults import evidence, neighbours, processes, world
from faults.neighbours import KINDS, SEED, Scene, memory, rounds
from faults.processes import Actor, Ended, alone, together
from faults.report import Row

from forge import driver
from forge.core import filesystem, locks, placing
from forge.core.results import USED
from forge.core.store import Store
from forge.release import placement, remote
from forge.release.outgoing import Outgoing
from forge.storekeeping import contents

SAMPLE = 2
TERM = "hallmark: exit 143, stopped by SIGTERM\n"


@pytest.fixture(scope="module")
def made():
    with neighbours.warm() as found:
        yield found


@pytest.mark.parametrize("kind", KINDS)
def test_a_few_rounds(made, tmp_path, kind):
    row = rounds(kind, made, SAMPLE, SEED, tmp_path)
    assert row.findings == []
    assert (row.counts["trials"], row.counts["same"] + row.counts["refused"]) == (SAMPLE, SAMPLE)
    assert row.is_good
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def root():
    with memory() as folder:
        yield folder


def said(wrong):
    return "\n".join(f"{category}: {text}" for category, text in wrong)


def found(kind, made, root, most=6):
    """What rounds find until one finds something."""
    for number in range(most):
        wrong = neighbours.round_of(kind, made, number, SEED, root / str(number)).wrong
        if wrong:
            return said(wrong)
    raise AssertionError(f"{most} rounds found nothing")


ONE_OUT = "two builders of one job at one folder"
TWO_JOBS = "two builders of different jobs at one folder"
DIES = "a builder that dies in its first step"


@pytest.fixture
def dies(monkeypatch):
    """A kind of round: the builder is killed when it has a lock, and another waits for it."""

    def kind(scene):
        scene.prepare("empty")
        scene.following = "one"
        neighbours.killed_with_a_lock(scene, "fetch")

    monkeypatch.setitem(KINDS, DIES, kind)


def test_placing_without_its_lock(made, root, monkeypatch):
    """Two fill one folder at once: one of them is told so by the system, which is no clear word."""

    def slow(source, target):
        time.sleep(0.02)
        os.link(source, target)

    def linked(source, target):
        target.parent.mkdir(exist_ok=True)
        slow(source.resolve(), target)

    monkeypatch.setattr(placing, "locked", lambda *_: nullcontext())
    monkeypatch.setattr(filesystem, "link", linked)
    assert "exit 17: error: " in found(ONE_OUT, made, root)


def test_a_link_that_writes_through(made, root, monkeypatch):
    """As it was once: placed in place, and what is there written to, which is the store's."""

    def link(source, target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source.resolve(), target)
        except FileExistsError:
            shutil.copyfile(source, target)

    def put(results, target):
        for path, source in placement._sources(results).items():
            link(source, target / path)

    monkeypatch.setattr(placement, "_put", put)
    wrong = found(TWO_JOBS, made, root)
    assert re.search("^lost: store: .* does not hash to its record$", wrong, re.MULTILINE)


@pytest.mark.usefixtures("dies")
def test_the_next_does_what_a_killed_builder_did_not(made, root):
    assert neighbours.round_of(DIES, made, 0, SEED, root / "0").wrong == ()


@pytest.mark.usefixtures("dies")
def test_what_a_killed_builder_leaves(made, root, monkeypatch):
    """If nobody removes it."""

    @contextmanager
    def beginning(self):
        yield self._folder("tmp")

    monkeypatch.setattr(Store, "_beginning", beginning)
    wrong = found(DIES, made, root, most=1)
    assert wrong.startswith("leftovers: left in the store's tmp: ['")


@pytest.mark.usefixtures("dies")
def test_a_lock_that_outlives_its_holder(made, root, monkeypatch):
    """A file that stands for a lock stays where its holder was killed: the other waits for ever."""

    @contextmanager
    def lock(self, step, key):
        path = self.root.with_name(f"{step}-{key}.lock")
        while True:
            try:
                path.touch(exist_ok=False)
                break
            except FileExistsError:
                time.sleep(0.01)
        yield
        path.unlink()

    monkeypatch.setattr(Store, "lock", lock)
    monkeypatch.setattr(processes, "PATIENCE", 1.5)
    assert "wedged: builder: has not ended after 2 s" in found(DIES, made, root, most=1)


@pytest.mark.parametrize("step", ["calibrate", "dress"])
def test_a_collector_that_takes_what_is_in_use(made, root, monkeypatch, step):
    """A builder that waits meanwhile misses it; where its locks and ledger count, it does not."""

    def kind(scene):
        scene.prepare("empty")
        neighbours.collected_before(scene, step)

    monkeypatch.setitem(KINDS, step, kind)
    assert neighbours.round_of(step, made, 0, SEED, root / "0").wrong == ()
    monkeypatch.setattr(contents, "in_work", lambda *_: [])
    real = locks.alone
    monkeypatch.setattr(
        locks, "alone", lambda path: nullcontext(True) if path.name == USED else real(path)
    )
    assert "untold: builder: exit " in found(step, made, root / "wrong", most=1)


def test_a_publisher_that_does_not_compare_what_it_sends(made, root, monkeypatch):
    """A release that was changed as it was planned to be sent is in no commit, but for that."""
    plan = remote.plan

    def changing(client, repo, release):
        path = release.files["config.json"].path
        found = plan(client, repo, release)
        neighbours.write_into(path)
        return found

    def kind(scene):
        scene.prepare("empty")
        neighbours.published(scene, neighbours.CHANGES)
        scene.actor("nobody", lambda: sys.exit(0))

    monkeypatch.setattr(remote, "plan", changing)
    monkeypatch.setitem(KINDS, "published", kind)
    assert neighbours.round_of("published", made, 0, SEED, root / "0").wrong == ()
    monkeypatch.setattr(
        Outgoing, "_compared", lambda self, name: self.files[name].path.read_bytes()
    )
    wrong = found("published", made, root / "wrong", most=1)
    assert "lost: commit-1: config.json does not hash to what is stated" in wrong


def test_a_traceback(made, root, monkeypatch):
    def place(*_, **__):
        raise RuntimeError("a bug")

    monkeypatch.setattr(driver, "place", place)
    wrong = found(ONE_OUT, made, root)
    assert "tracebacks: first: a traceback: " in wrong
    assert "tracebacks: second: a traceback: " in wrong


@pytest.fixture
def scene(made, root):
    """A build at its folder, and the store that it shares its bytes with."""
    scene = Scene(world=made, chance=None, folder=root)
    scene.logs.mkdir()
    made.copy_store(scene.store, "full")
    made.copy_out("one", scene.store, scene.out())
    return scene


def judged(scene):
    return [
        *evidence.of_a_store(scene.store),
        *evidence.of_an_out(scene.out(), scene.world, {"one"}),
        *evidence.of_leftovers(scene.store, scene.folder / "outs", {"out"}, aside=False),
    ]


def test_nothing_is_wrong(scene):
    assert judged(scene) == []
    shutil.rmtree(scene.out())
    shutil.copytree(scene.world.release, scene.out())
    assert judged(scene) == []


def flip(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def tear(path):
    path.write_bytes(path.read_bytes()[:100])


def of_the_other(scene, path):
    (scene.out() / path).unlink()
    shutil.copy2(scene.world.out("other base") / path, scene.out() / path)


def verified(scene):
    shutil.rmtree(scene.out())
    scene.world.copy_out("verified", scene.store, scene.out())


def signed_by_half(scene):
    shutil.rmtree(scene.out())
    shutil.copytree(scene.world.release, scene.out())
    (scene.out() / "provenance/release.sigstore.json").unlink()


def signed_otherwise(scene):
    shutil.rmtree(scene.out())
    shutil.copytree(scene.world.release, scene.out())
    path = scene.out() / "provenance/release.json"
    path.write_bytes(path.read_bytes() + b"\n")


@pytest.mark.parametrize(
    ("damage", "reasons"),
    [
        (
            lambda scene: flip(scene.out() / "config.json"),
            ("config.json does not hash to its record", "config.json does not hash to what is "),
        ),
        (
            lambda scene: of_the_other(scene, "model-mtp.safetensors"),
            ("model-mtp.safetensors does not hash to SHA256SUMS",),
        ),
        (lambda scene: of_the_other(scene, world.SUMS), ("SHA256SUMS does not hash to what is",)),
        (verified, ("out: is that of 'verified', wanted is one of ['one']",)),
        (lambda scene: (scene.out() / "config.json").unlink(), ("out: lacks config.json",)),
        (lambda scene: shutil.rmtree(scene.out()), ("out: holds no build",)),
        (lambda scene: (scene.out() / world.SUMS).unlink(), ("cannot be judged: FileNotFound",)),
        (lambda scene: tear(scene.out() / evidence.STATEMENT), ("cannot be judged: JSONDecode",)),
        (
            lambda scene: tear(next(scene.store.glob("graft/*/record.json"))),
            ("store: cannot be judged: JSONDecode",),
        ),
        (lambda scene: (scene.out() / "notes").touch(), ("has ['notes'], which nothing lists",)),
        (signed_by_half, ("only ['provenance.sigstore.json', 'test-result.sig",)),
        (signed_otherwise, ("release.sigstore.json signs another release.json",)),
        (lambda scene: (scene.out("x")).touch(), ("left beside the folder: ['x']",)),
        (lambda scene: (scene.store / "tmp/x").mkdir(parents=True), ("store's tmp: ['x']",)),
        (lambda scene: (scene.store / "aside/x").mkdir(parents=True), ("store's aside: ['x']",)),
        (
            lambda scene: next(scene.store.glob("dress/*/files/config.json")).unlink(),
            ("listed or there, not both: ['config.json']",),
        ),
        (
            lambda scene: next(scene.store.glob("graft/*/record.json")).unlink(),
            ("has ['files']",),
        ),
    ],
)  # fmt: skip
def test_what_is_left_is_judged(scene, damage, reasons):
    """Each damage by its reason, whatever else is said."""
    damage(scene)
    wrong = said(judged(scene))
    assert any(reason in wrong for reason in reasons), wrong


def test_a_lock_that_is_held(scene):
    path = next(scene.store.glob("graft/*/record.json"))
    use = locks.Shared(path)
    locked = f"locked, and all have ended: {path.relative_to(scene.store)}"
    assert judged(scene) == [("leftovers", locked)]
    del use
    assert judged(scene) == []


@pytest.mark.parametrize(
    ("code", "says", "more", "reason"),
    [
        (0, "fine\n", {}, ""),
        (40, "error: in use\nhelp: wait\n", {"refusals": ("in use",)}, ""),
        (-signal.SIGKILL, "", {"killed": 0.1}, ""),
        (143, TERM, {"killed": 0.1, "by": signal.SIGTERM}, ""),
        (-signal.SIGTERM, "", {"killed": 0.1, "by": signal.SIGTERM}, ""),
        (143, TERM, {"killed": 0.1}, "exit 143 with 0 errors"),
        (143, TERM + TERM, {"killed": 0.1, "by": signal.SIGTERM}, "exit 143 with 0 errors"),
        (143, "", {"killed": 0.1, "by": signal.SIGTERM}, "exit 143 with 0 errors"),
        (143, f"error: no\n{TERM}", {"killed": 0.1, "by": signal.SIGTERM}, "exit 143: error: no"),
        (0, "error: in use\n", {}, "exit 0: error: in use"),
        (40, "error: in use\n", {}, "exit 40: error: in use"),
        (40, "error: in use\nerror: again\n", {"refusals": ("in use",)}, "with 2 errors"),
        (40, "", {"refusals": ("in use",)}, "with 0 errors"),
        (1, "Traceback (most recent call last):\n\nKeyError: 1\n", {}, "a traceback"),
        (-signal.SIGKILL, "", {}, "ended by signal 9"),
        (-signal.SIGSEGV, "", {"killed": 0.1}, "ended by signal 11"),
        (-signal.SIGALRM, "", {}, "has not ended after"),
    ],
)
def test_how_a_command_ends(code, says, more, reason):
    actor = Actor(name="one", work=int, **more)
    wrong = [what for _, what in evidence.of_the_end(actor, Ended(code=code, said=says))]
    assert bool(reason) == bool(wrong)
    assert reason in "\n".join(wrong)


def test_what_happens_to_processes(tmp_path):
    """They begin and are stopped when they should, and none is left of those that do not end."""

    def work():
        (tmp_path / "began").write_text(str(time.monotonic()), encoding="ascii")
        time.sleep(60)

    start = time.monotonic()
    waits = Actor(name="waits", work=work, after=0.2, killed=0.6)
    stops = Actor(name="stops", work=lambda: time.sleep(0.1), pauses=((0.05, 0.5),))
    ended = together([waits, stops], tmp_path)
    assert {name: one.code for name, one in ended.items()} == {"waits": -9, "stops": 0}
    assert float((tmp_path / "began").read_text(encoding="ascii")) - start >= 0.2
    assert 0.5 <= time.monotonic() - start < 30
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_who_does_not_end(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "PATIENCE", 0.2)
    ended = alone("sleeper", lambda: time.sleep(60), tmp_path)
    assert ended.code == -signal.SIGALRM
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_what_went_wrong_is_kept(made, tmp_path, monkeypatch):
    """The row is no good, and the folder of the round can be looked at."""

    def kind(scene):
        scene.prepare("empty")
        scene.builder("builder", "one")
        scene.actor("other", lambda: sys.exit(3), after=0.0, pauses=())

    monkeypatch.setitem(KINDS, "wrong", kind)
    row = rounds("wrong", made, 1, SEED, tmp_path)
    assert not row.is_good
    assert row.as_json()["wrong"] == row.as_json()["untold"] == 1
    assert row.findings == ["untold: round 0: other: exit 3 with 0 errors: 'hallmark: exit 3\\n'"]
    assert (tmp_path / "wrong/round-0/outs/out/config.json").is_file()
    assert not Row(part="neighbours", name="none").is_good
