"""All trials of a command: every numbered call, killed and refused in every way there is."""

import errno
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

from faults import shim, trial, worlds
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
    command.prepare(root / "fixed", snapshot)
    if threading.active_count() > 1:
        raise AssertionError(f"{command.name}: a process that forks may have no other threads")
    world = root / "worlds" / f"{command.name}-reference"
    worlds.clone(snapshot, world)
    ended = trial.run(command, root, world, Fault())
    if wrong := ["exit"] * bool(ended.code) + command.check(world):
        raise AssertionError(f"{command.name} does not even work: {wrong}: {ended.said}")
    made = Stage(
        command=command,
        root=root,
        before=worlds.inventory(snapshot),
        after=worlds.inventory(world),
        operations=ended.operations,
    )
    shutil.rmtree(world)
    return made


def faults(operations: Sequence[Operation]) -> Iterator[Fault]:
    """Every fault that the calls of a run can meet."""
    for one in operations:
        number = one.number
        if one.kind == shim.READ:
            for error in READ_ERRORS[one.name]:
                yield Fault(mode=shim.REFUSE, kind=shim.READ, number=number, error=error)
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
    row = Row(part="faults", name=on.command.name)
    row.counts["operations"] = sum(one.kind == shim.CHANGE for one in on.operations)
    row.counts["reads"] = sum(one.kind == shim.READ for one in on.operations)
    with get_context("fork").Pool(workers, _begin, (on,)) as pool:
        for verdict in pool.imap_unordered(_try, chosen, chunksize=4):
            row.counts["trials"] += 1
            row.counts[verdict.counts] += 1
            for category in {category for category, _ in verdict.problems}:
                row.counts[category] += 1
            row.findings += [f"{what}: {verdict.fault}: {said}" for what, said in verdict.problems]
    if worlds.inventory(on.snapshot) != on.before:
        row.counts["lost"] += 1
        row.findings.append("lost: a trial changed the snapshot that all of them begin with")
    row.seconds = time.monotonic() - began
    return row


_on: Stage


def _begin(on: Stage) -> None:
    global _on  # noqa: PLW0603 - once a worker
    _on = on


def _try(fault: Fault) -> Verdict:
    return examine(_on, fault)


def examine(on: Stage, fault: Fault) -> Verdict:
    """One trial: the command with the fault, what is there then, and the command once more."""
    world = on.root / "worlds" / f"{on.command.name}-{fault}".replace(" ", "-")
    worlds.clone(on.snapshot, world)
    try:
        ended = trial.run(on.command, on.root, world, fault)
        verdict = Verdict(fault=fault, counts=_counts(ended, fault))
        at = ended.at(fault)
        where = f"{at.name} {at.path.removeprefix(f'{world}/')}" if at else "not reached"

        def tell(category: str, what: str) -> None:
            verdict.problems.append((category, f"{where}: {what}"))

        _judge_end(ended, fault, tell)
        wrong = _unlike_either(on, world)
        if wrong:
            tell("lost", "; ".join(wrong[:4]))
        if ended.code == 0 and (unfinished := _unfinished(on, world)):
            tell("lost", f"exit 0, but {'; '.join(unfinished[:4])}")
        _judge_again(on, world, tell)
        return verdict
    finally:
        shutil.rmtree(world)


def _counts(ended: Ended, fault: Fault) -> str:
    """What a trial counts as."""
    if ended.at(fault) is None:
        return "not_reached"
    if fault.mode in shim.KILLS:
        return "kills_survived"
    return "refusals_told" if ended.code else "refusals_survived"


def _judge_end(ended: Ended, fault: Fault, tell) -> None:
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
        tell("untold", f"exit {ended.code} with {ended.errors} errors told")
    elif ended.code and "disk is full" in ended.said and fault.error != errno.ENOSPC:
        tell("untold", "told as a full disk")


def _unlike_either(on: Stage, world: Path) -> list[str]:
    """What is neither as it was before nor as the command makes it."""
    now, command = worlds.inventory(world), on.command
    apart = ("store", "tmp", *command.units)

    def others(found: Inventory) -> dict[str, str]:
        return {name: what for name, what in found.items() if name.split("/")[0] not in apart}

    wrong = [
        line
        for line in worlds.differences(others(on.before), others(now), "")
        if not line.startswith("extra ")
    ]
    for unit in command.units:
        is_now = worlds.below(now, unit)
        if is_now == worlds.below(on.before, unit):
            continue
        new = worlds.differences(worlds.below(on.after, unit), is_now, command.varying)
        wrong += new or command.check(world)
    return wrong


def _unfinished(on: Stage, world: Path) -> list[str]:
    """What a run that ended well did not make as it should."""
    now = worlds.inventory(world)
    unlike = [
        line
        for unit in on.command.units
        for line in worlds.differences(
            worlds.below(on.after, unit), worlds.below(now, unit), on.command.varying
        )
    ]
    return unlike or on.command.check(world)


def _judge_again(on: Stage, world: Path, tell) -> None:
    """The next run, which meets nothing: it ends well, makes the same, and leaves nothing else."""
    again = trial.run(on.command, on.root, world)
    if again.has_traceback:
        tell("tracebacks", f"of the next run: {again.said.strip().splitlines()[-1]}")
    if again.code:
        said = [line for line in again.said.splitlines() if line.startswith("error:")]
        tell("wedged", f"exit {again.code} of the next run: {said}")
        return
    lines = worlds.differences(on.after, worlds.inventory(world), on.command.varying)
    left = [line.removeprefix("extra ") for line in lines if line.startswith("extra ")]
    if left:
        tell("leftovers", ", ".join(left[:4]))
    unlike = [line for line in lines if not line.startswith("extra ")] or on.command.check(world)
    if unlike:
        tell("wedged", f"after the next run: {'; '.join(unlike[:4])}")
