"""All trials of a command: every numbered call, killed and refused in every way there is."""

import errno
import gc
import os
import random
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

from faults import beside, shim, trial, worlds
from faults.beside import Beside
from faults.commands import Command
from faults.report import Row
from faults.shim import Fault, Operation
from faults.trial import Ended
from faults.worlds import Inventory

ERRORS = (errno.EIO, errno.EACCES, errno.ENOSPC, errno.EROFS, errno.EMFILE)
# What a call that reads can be refused with; of what is open, the disk alone can refuse more.
READ_ERRORS = {
    "open": (errno.EIO, errno.EACCES, errno.EMFILE),
    "opendir": (errno.EIO, errno.EACCES, errno.EMFILE),
    "read": (errno.EIO,),
    "mmap": (errno.EIO,),
}
# What is said of a disk that is full, or that has as many files as it can have.
FULL_DISK = ("The disk is full", "No more files can be made")
SET_ASIDE = "Set aside in the store"  # what an error says of a result that is made again
TOLD = 100  # trials between two lines on the way

Tell = Callable[[str, str], None]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A command with the world that its trials begin with, and that which a whole run leaves."""

    command: Command
    root: Path
    before: Inventory
    after: Inventory
    operations: Sequence[Operation]

    @property
    def snapshot(self) -> Path:
        return self.root / "snapshots" / self.command.name


@dataclass(kw_only=True)
class Verdict:
    """What came of a trial: how it counts, and what was wrong, each as category and line."""

    fault: Fault
    counts: str
    problems: list[tuple[str, str]] = field(default_factory=list)


def stage(command: Command, root: Path) -> Stage:
    """Prepares a command's world and runs it once, counting."""
    snapshot = root / "snapshots" / command.name
    snapshot.mkdir(parents=True)
    with quiet():
        command.prepare(root / "fixed", snapshot)
    if threading.active_count() > 1:
        raise AssertionError(f"{command.name}: a process that forks may have no other threads")
    world = root / "worlds" / f"{command.name}-reference"
    worlds.clone(snapshot, world)
    with command.beside(root / "fixed") as hub:
        before = present(snapshot, hub)
        ended = trial.run(command, root, world, Fault(), hub)
        if wrong := ["exit"] * bool(ended.code) + command.check(world):
            raise AssertionError(f"{command.name} does not even work: {wrong}: {ended.said}")
        after = present(world, hub)
    shutil.rmtree(world)
    return Stage(
        command=command, root=root, before=before, after=after, operations=ended.operations
    )


@contextmanager
def quiet() -> Iterator[None]:
    """What commands say meanwhile, of a world that they prepare, is not told."""
    said = [os.dup(1), os.dup(2)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        for number in (1, 2):
            os.dup2(nowhere, number)
        yield
    finally:
        sys.stdout.flush()
        for number, descriptor in enumerate(said, start=1):
            os.dup2(descriptor, number)
            os.close(descriptor)
        os.close(nowhere)


def present(world: Path, hub: Beside | None) -> Inventory:
    """What is there: in a world, and in the repository of the hub beside it."""
    return worlds.inventory(world) | ({} if hub is None else hub.state())


def faults(operations: Sequence[Operation]) -> Iterator[Fault]:
    """Every fault that the calls of a run can meet."""
    seen: set[str] = set()
    for one in operations:
        number = one.number
        if one.kind == shim.REQUEST:
            for mode in (shim.KILL_BEFORE, shim.KILL_AFTER):
                yield Fault(mode=mode, kind=shim.REQUEST, number=number)
            for error in beside.REFUSALS:
                yield Fault(mode=shim.REFUSE, kind=shim.REQUEST, number=number, error=error)
            continue
        if one.kind == shim.READ:
            for error in READ_ERRORS[one.name]:
                yield Fault(mode=shim.REFUSE, kind=shim.READ, number=number, error=error)
            if one.name != "open" and one.path not in seen:
                seen.add(one.path)
                yield Fault(mode=shim.UNREADABLE, kind=shim.READ, number=number, error=errno.EIO)
            continue
        yield Fault(mode=shim.KILL_BEFORE, number=number)
        yield Fault(mode=shim.KILL_AFTER, number=number)
        if one.traits & shim.WRITES:
            yield Fault(mode=shim.TEAR, number=number)
        for error in ERRORS:
            yield Fault(mode=shim.REFUSE, number=number, error=error)
        if one.traits & shim.GROWS:
            yield Fault(mode=shim.FULL, number=number, error=errno.ENOSPC)


def sample(every: Sequence[Fault], per_kind: int) -> list[Fault]:
    """Of each kind of fault as many as told, at a fixed stride."""
    groups: dict[tuple[int, int, int], list[Fault]] = {}
    for one in every:
        groups.setdefault((one.mode, one.kind, one.error), []).append(one)
    chosen = []
    for number, group in enumerate(groups.values()):
        stride = max(1, len(group) // per_kind)
        chosen += group[(number * 7) % stride :: stride][:per_kind]
    return chosen


def walk(on: Stage, chosen: Sequence[Fault], workers: int) -> Row:
    """Tries the chosen faults, each from a copy of the snapshot, on so many workers."""
    began = time.monotonic()
    row = Row(part="faults", name=on.command.name, title=on.command.title)
    row.counts["operations"] = sum(one.kind == shim.CHANGE for one in on.operations)
    row.counts["reads"] = sum(one.kind == shim.READ for one in on.operations)
    if requests := sum(one.kind == shim.REQUEST for one in on.operations):
        row.counts["requests"] = requests
    if files := sum(one.mode == shim.UNREADABLE for one in chosen):
        row.counts["unreadable"] = files
    # In no order, so that the first trials tell of all parts of the command.
    chosen = random.Random(0).sample(chosen, len(chosen))  # noqa: S311
    gc.freeze()  # what the trials share is not looked at, and so not copied, by their collectors
    with get_context("fork").Pool(workers, _begin, (on,)) as pool:
        for verdict in pool.imap_unordered(_try, chosen, chunksize=4):
            row.counts["trials"] += 1
            if row.counts["trials"] % TOLD == 0:
                done = f"{row.counts['trials']} of {len(chosen)}"
                say(f"{row.name}: {done}, {time.monotonic() - began:.0f} s")
            row.counts[verdict.counts] += 1
            for category in {category for category, _ in verdict.problems}:
                row.counts[category] += 1
            for what, said in verdict.problems:
                row.findings.append(f"{what}: {verdict.fault}: {said}")
                say(f"{row.name}: {row.findings[-1]}")
    if worlds.inventory(on.snapshot) != {
        name: what for name, what in on.before.items() if not name.startswith("hub/")
    }:
        row.counts["lost"] += 1
        row.findings.append("lost: a trial changed the snapshot that all of them begin with")
    row.seconds = time.monotonic() - began
    return row


def say(text: str) -> None:
    """Tells on the way."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201


_on: Stage


def _begin(on: Stage) -> None:
    global _on  # noqa: PLW0603 - once a worker
    _on = on
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # by which the pool ends its workers


def _try(fault: Fault) -> Verdict:
    return examine(_on, fault)


def examine(on: Stage, fault: Fault) -> Verdict:
    """One trial: the command with the fault, what is there then, and the command once more."""
    world = on.root / "worlds" / f"{on.command.name}-{fault}".replace(" ", "-")
    worlds.clone(on.snapshot, world)
    try:
        with on.command.beside(on.root / "fixed") as hub:
            ended = trial.run(on.command, on.root, world, fault, hub)
            verdict = Verdict(fault=fault, counts=_counts(ended, fault))
            at = ended.at(fault)
            where = f"{at.name} {at.path.removeprefix(f'{world}/')}" if at else "not reached"

            def tell(category: str, what: str) -> None:
                verdict.problems.append((category, f"{where}: {what}"))

            _judge_end(ended, fault, tell)
            there = present(world, hub)
            passing = on.command.passing
            now = {name: what for name, what in there.items() if not re.fullmatch(passing, name)}
            if wrong := _unlike_either(on, world, now):
                tell("lost", "; ".join(wrong[:4]))
            if ended.code == 0 and (unfinished := _unfinished(on, world, now)):
                tell("lost", f"exit 0, but {'; '.join(unfinished[:4])}")
            again = trial.run(on.command, on.root, world, None, hub, bad=ended.bad)
            if ended.bad and again.code and SET_ASIDE in again.said:
                # Results share the file, and a build meets one after the other.
                again = trial.run(on.command, on.root, world, None, hub, bad=ended.bad)
            then = present(world, hub)
            if at:
                then = {
                    name: what
                    for name, what in then.items()
                    if name in on.after or not _may_stay(name, at, fault)
                }
            if again.code and at and _is_beyond_mending(at, world, fault):
                _judge_end(again, fault, tell)
                if wrong := _unlike_either(on, world, then):
                    tell("lost", f"after the next run: {'; '.join(wrong[:4])}")
                return verdict
            _judge_again(on, world, again, then, tell)
            return verdict
    finally:
        shutil.rmtree(world)


def _may_stay(name: str, at: Operation, fault: Fault) -> bool:
    """Whether it is there because the disk does not give something: nobody can mend that.

    A result is set aside then, and a folder that cannot be listed cannot be removed either.
    """
    if fault.error != errno.EIO or at.kind != shim.READ:
        return False
    is_bad = fault.mode == shim.UNREADABLE
    of_a_result = re.search(r"/store/[a-z]+/[0-9a-f]{64}/", at.path) is not None
    if name.startswith("store/aside/"):
        return is_bad or of_a_result
    # Also the old one of a folder that was replaced, which is removed last.
    in_the_way = name.startswith("store/trash/") or ".hallmark-" in name.partition("/")[0]
    return in_the_way and is_bad and at.name == "opendir"


def _is_beyond_mending(at: Operation, world: Path, fault: Fault) -> bool:
    """Whether each run may be refused: by a file that is a user's, or a folder of the store's own.

    What is below those can be made again, so nothing there stands in the way of the next run.
    """
    own = re.fullmatch(rf"{re.escape(str(world))}/store(/[a-z]+)?/?", at.path)
    of_user = not at.path.startswith(f"{world}/store/")
    return fault.mode == shim.UNREADABLE and (of_user or own is not None)


def _counts(ended: Ended, fault: Fault) -> str:
    """What a trial counts as."""
    if ended.at(fault) is None:
        return "not_reached"
    if fault.mode in shim.KILLS:
        return "kills_survived"
    return "refusals_told" if ended.code else "refusals_survived"


def _judge_end(ended: Ended, fault: Fault, tell: Tell) -> None:
    """How the command with the fault ended."""
    if ended.has_traceback:
        tell("tracebacks", ended.said.strip().splitlines()[-1])
    if ended.code == -signal.SIGALRM:
        tell("wedged", f"it did not end within {trial.SECONDS} s")
    elif fault.mode in shim.KILLS:
        if ended.code != (-signal.SIGKILL if ended.at(fault) else 0):
            tell("untold", f"exit {ended.code}: {ended.said}")
    elif ended.code < 0:
        tell("untold", f"ended by signal {-ended.code}")
    elif ended.code and (ended.errors != 1 or ended.has_traceback):
        tell("untold", f"exit {ended.code} with {ended.errors} errors told: {ended.said[-500:]!r}")
    elif ended.code and fault.kind != shim.REQUEST:
        _judge_reason(ended, fault, tell)


def _judge_reason(ended: Ended, fault: Fault, tell: Tell) -> None:
    """Whether the error tells what the system said, and a full disk if and only if it was one."""
    reason = os.strerror(fault.error)
    if reason not in ended.said:
        tell("untold", f"without {reason!r}: {ended.said[-500:]!r}")
    if any(words in ended.said for words in FULL_DISK) != (fault.error == errno.ENOSPC):
        tell("untold", f"told as a full disk, or as none: {ended.said[-500:]!r}")


def _unlike_either(on: Stage, world: Path, now: Inventory) -> list[str]:
    """What is neither as it was before nor as the command makes it."""
    command = on.command
    apart = ("store", "tmp", *command.units)

    def others(found: Inventory) -> dict[str, str]:
        # What begins with a dot is a command's own, under way or left behind.
        return {
            name: what
            for name, what in found.items()
            if name.split("/")[0] not in apart and not name.startswith(".")
        }

    wrong = [
        line
        for line in worlds.differences(others(on.before), others(now), "")
        if not line.startswith("extra ")
    ]
    for unit in command.units:
        is_now = worlds.below(now, unit)
        if is_now == worlds.below(on.before, unit):
            continue
        if not command.halfway(unit, now, on.before, on.after):
            becomes = worlds.below(on.after, unit)
            wrong += worlds.differences(becomes, is_now, command.varying) or command.check(world)
    return wrong


def _unfinished(on: Stage, world: Path, now: Inventory) -> list[str]:
    """What a run that ended well did not make as it should."""
    unlike = [
        line
        for unit in on.command.units
        for line in worlds.differences(
            worlds.below(on.after, unit), worlds.below(now, unit), on.command.varying
        )
    ]
    return unlike or on.command.check(world)


def _judge_again(on: Stage, world: Path, again: Ended, now: Inventory, tell: Tell) -> None:
    """The next run, which meets nothing: it ends well, makes the same, and leaves nothing else."""
    if again.has_traceback:
        tell("tracebacks", f"of the next run: {again.said.strip().splitlines()[-1]}")
    if again.code:
        said = [line for line in again.said.splitlines() if line.startswith("error:")]
        tell("wedged", f"exit {again.code} of the next run: {said}")
        return
    lines = worlds.differences(on.after, now, on.command.varying)
    left = [line.removeprefix("extra ") for line in lines if line.startswith("extra ")]
    if left:
        tell("leftovers", ", ".join(left[:4]))
    unlike = [line for line in lines if not line.startswith("extra ")] or on.command.check(world)
    if unlike:
        tell("wedged", f"after the next run: {'; '.join(unlike[:4])}")
