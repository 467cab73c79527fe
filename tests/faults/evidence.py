"""What processes left, judged from the files alone: each function gives what is wrong.

Read as anyone can, as JSON and text: nothing here asks the code that wrote it. What is wrong is of
one of the categories of the report.
"""

import base64
import fcntl
import json
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import wraps
from pathlib import Path
from typing import Any

from faults import processes
from faults.processes import Actor, Ended
from faults.world import SUMS, World, digest

STATEMENT = Path("provenance", "provenance.json")
LISTED = Path("provenance", "release.json")
BUNDLES = {
    "provenance.sigstore.json": STATEMENT,
    "test-result.sigstore.json": STATEMENT.with_name("test-result.json"),
    "release.sigstore.json": LISTED,
}
GIT = ".gitattributes"  # which a hub puts into a new repository

Wrong = tuple[str, str]


def of_the_end(actor: Actor, ended: Ended) -> Iterator[Wrong]:
    """A command ends well, or with one error that it may end with, or as it was killed."""
    who = actor.name
    if "Traceback" in ended.said:
        yield "tracebacks", f"{who}: a traceback: {ended.said.strip().splitlines()[-2:]}"
    if ended.code == 0 and not ended.errors:
        return
    mortal = {actor.by} if actor.killed is not None else {signal.SIGKILL} if actor.dies else set()
    if ended.code == -signal.SIGALRM:
        waited = f"{processes.PATIENCE:.0f} s"
        yield "wedged", f"{who}: has not ended after {waited}: {ended.said[-300:]!r}"
    elif ended.code < 0 and -ended.code not in mortal:
        yield "untold", f"{who}: ended by signal {-ended.code}"
    if ended.code < 0 or (ended.code - 128 in mortal and _is_stopped(ended)):
        return
    if len(ended.errors) != 1:
        yield (
            "untold",
            f"{who}: exit {ended.code} with {len(ended.errors)} errors: {ended.said[-300:]!r}",
        )
    elif not any(part in ended.errors[0] for part in actor.refusals):
        yield "untold", f"{who}: exit {ended.code}: {ended.errors[0]}"


def _is_stopped(ended: Ended) -> bool:
    """Whether it told once by which signal it ends, and no error."""
    line = f"hallmark: exit {ended.code}, stopped by {signal.Signals(ended.code - 128).name}\n"
    return ended.said.count("hallmark: exit ") == ended.said.count(line) == 1 and not ended.errors


def _told(judge: Callable[..., Iterator[Wrong]]) -> Callable[..., Iterator[Wrong]]:
    """Has what cannot even be read be what is wrong, so that the next round is judged as well."""

    @wraps(judge)
    def judging(folder: Path, *more: Any, **named: Any) -> Iterator[Wrong]:
        try:
            yield from judge(folder, *more, **named)
        except (OSError, ValueError, KeyError, TypeError) as error:
            yield "lost", f"{folder.name}: cannot be judged: {error!r}"

    return judging


@_told
def of_a_store(store: Path) -> Iterator[Wrong]:
    """Every file of every result hashes to its record, and there is no other."""
    for result in sorted(store.glob("*/*/")):
        if result.parent.name in {"locks", "tmp", "trash", "aside", "reproduce", "failed"}:
            continue
        where = result.relative_to(store)
        names = {path.name for path in result.iterdir()} - {"used"}
        if names != {"files", "record.json"}:
            yield "lost", f"store: {where} has {sorted(names)}"
            continue
        outputs = _json(result / "record.json")["outputs"]
        there = {path.relative_to(result / "files").as_posix() for path in _files(result / "files")}
        if there != outputs.keys():
            yield (
                "lost",
                f"store: {where}: listed or there, not both: {sorted(there ^ outputs.keys())}",
            )
        for path in sorted(there & outputs.keys()):
            if digest(result / "files" / path) != outputs[path]["sha256"]:
                yield "lost", f"store: {where}/{path} does not hash to its record"


@_told
def of_an_out(out: Path, world: World, wanted: Iterable[str]) -> Iterator[Wrong]:
    """A folder is that of one of the `wanted` jobs: whole, and of that one alone."""
    if not (out / STATEMENT).is_file():
        yield "lost", f"{out.name}: holds no build"
        return
    job = job_of(out, world)
    if job not in wanted:
        yield "lost", f"{out.name}: is that of {job!r}, wanted is one of {sorted(wanted)}"
    stated = _json(out / STATEMENT)
    digests = _subjects(stated["subject"])
    details = stated["predicate"]["runDetails"]["byproducts"]
    digests |= _subjects(one for one in details if one["name"].startswith("provenance/"))
    names = {path.relative_to(out).as_posix() for path in _files(out)}
    known = {*digests, STATEMENT.as_posix()}
    if (out / LISTED).is_file():
        listed = _subjects(_json(out / LISTED)["subject"])
        digests |= listed
        known |= {*listed, LISTED.as_posix()}
        known |= {f"provenance/{name}" for name in BUNDLES}
    if extra := sorted(names - known):
        yield "lost", f"{out.name}: has {extra}, which nothing lists"
    for name in sorted({*digests} - names):
        yield "lost", f"{out.name}: lacks {name}"
    for name in sorted(names & digests.keys()):
        if digest(out / name) != digests[name]:
            yield "lost", f"{out.name}: {name} does not hash to what is stated"
    for line in (out / SUMS).read_text(encoding="utf-8").splitlines():
        wants, name = line.split("  ", 1)
        if not (out / name).is_file() or digest(out / name) != wants:
            yield "lost", f"{out.name}: {name} does not hash to SHA256SUMS"
    yield from _of_signatures(out)


def of_a_hub(commits: Iterable[Mapping[str, bytes]], folder: Path, world: World) -> Iterator[Wrong]:
    """Each commit of a repository is one whole build, signed or not yet, or the hub's own file."""
    for number, files in enumerate(commits):
        if files.keys() == {GIT}:
            continue
        out = folder / f"commit-{number}"
        for name, data in files.items():
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (out / name).write_bytes(data)
        yield from of_an_out(out, world, world.jobs)


def job_of(out: Path, world: World) -> str | None:
    """The job that a folder is the result of, by its sums and by how far it was verified."""
    sums = (out / SUMS).read_bytes()
    definition = _json(out / STATEMENT)["predicate"]["buildDefinition"]
    level = definition["internalParameters"]["verified"]
    found = (n for n, asked in world.jobs.items() if (world.sums[n], asked.level) == (sums, level))
    return next(found, None)


def of_leftovers(
    store: Path, outs: Path, expected: Iterable[str], *, aside: bool
) -> Iterator[Wrong]:
    """After a next run there is nothing but results and what was asked for, and nothing locked."""
    emptied = ("tmp", "trash", "locks", "reproduce", "failed", *(() if aside else ("aside",)))
    for name in emptied:
        if left := sorted(path.name for path in (store / name).glob("*")):
            yield "leftovers", f"left in the store's {name}: {left}"
    if left := sorted({path.name for path in outs.iterdir()} - {*expected}):
        yield "leftovers", f"left beside the folder: {left}"
    for path in _files(store):
        if not path.is_symlink():
            with path.open("rb") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    yield "leftovers", f"locked, and all have ended: {path.relative_to(store)}"


def _of_signatures(out: Path) -> Iterator[Wrong]:
    """Both statements are signed, as they are, or none."""
    there = {name: out / "provenance" / name for name in BUNDLES}
    signed = [name for name, path in there.items() if path.exists()]
    if signed and len(signed) < len(BUNDLES):
        yield "lost", f"{out.name}: only {signed} is there"
    for name in signed:
        payload = base64.b64decode(_json(there[name])["dsseEnvelope"]["payload"])
        statement = out / BUNDLES[name]
        if not statement.is_file() or statement.read_bytes() != payload:
            yield "lost", f"{out.name}: {name} signs another {BUNDLES[name].name}"


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file() or path.is_symlink())


def _subjects(resources: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    return {one["name"]: one["digest"]["sha256"] for one in resources}


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
