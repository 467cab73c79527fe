"""Rebuilds a release from its own provenance, and compares.

1. Refuse a folder that verify-release would refuse at sight, and read the manifest strictly. All of
   its files are open from here on, and what is compared is what was looked at.
2. Hold it to the files beside it (record, digests) and to this checkout: the recipe, and the
   modules and distributions of the steps that write the checkpoint. Other differences are told.
3. Fetch what it was made from, and hold every input to the manifest.
4. Rebuild from its calibration record: quantize, graft, dress, the build's own steps, in a store
   that holds nothing yet, since a result found there would not have been rebuilt.
5. Compare with the digests that the release lists, and with its files where it has them.
6. If asked to, calibrate again and tell how far each input scale is off.

Until 4 every mismatch is a refusal: another input or other code would prove nothing about this
release. What 5 finds is the answer. Steps 1 to 5 need neither torch nor a GPU.
"""

import datetime
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from assay.rebuild import compare, listing, preconditions, recalibration, tables
from assay.rebuild.compare import Comparison
from assay.rebuild.recalibration import Scale
from forge import pipeline
from forge.calibration import record
from forge.core import canonical, checkout, console, foreign, locks, machine, signals
from forge.core.errors import DifferenceError, FetchError, HallmarkError, ManifestError
from forge.core.filesystem import delete
from forge.core.results import Result
from forge.core.store import Store
from forge.inputs import fetch
from forge.manifest import document, limits
from forge.manifest import provenance as manifests
from forge.manifest.inputs import Inputs
from forge.manifest.names import INPUTS, PROVENANCE, STATEMENT
from forge.manifest.provenance import Manifest
from forge.manifest.reproduction import Compared, Outcome
from forge.pipeline import Job
from forge.release.folder import job_for, provenance_of


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """What became of the rebuild in the release: what is extra there was not rebuilt.

    `listed` compares the release's digests with the rebuild, `files` its files, if it has any;
    `scales` are there if it was calibrated again, `bytes` is the size of the rebuild, `manifest`
    the digest of the manifest that it was rebuilt from. `written` are the digests that the files of
    the rebuild had when they were written, with which those of the release were compared. `commit`
    is that of this checkout before it built.
    """

    variant: str
    manifest: str
    commit: str
    finished: str
    written: Mapping[str, str]
    listed: Comparison
    files: Comparison | None
    scales: tuple[Scale, ...] | None
    bytes: int

    @property
    def identical(self) -> bool:
        """Whether the rebuild is the release; other scales do not count, its record is."""
        return self.listed.identical and (self.files is None or self.files.identical)

    @property
    def outcome(self) -> Outcome:
        """The outcome, for a statement about it."""
        compared = self.files or self.listed
        return Outcome(
            variant=self.variant,
            manifest=self.manifest,
            identical=self.identical,
            compared=Compared(
                against="digests" if self.files is None else "files",
                files=len(compared.files),
                tensors=compared.compared,
            ),
            files=dict(self.written),
            commit=self.commit,
            machine=machine.machine(),
            finished_on=self.finished,
        )


def run(
    folder: Path,
    store: Store,
    *,
    base: Path | None = None,
    mirror: Path | None = None,
    recalibrate: bool = False,
) -> Reproduction:
    """Reproduces a release folder, or one of which only the provenance is there.

    A rebuild that differs is kept under the store's `reproduce/`, and that is said.

    Raises:
        ManifestError: the release, this checkout or an input is not what the manifest says, or
            another release was put in its place meanwhile.
        FetchError: the folder is no release, or an input cannot be had.
        ReleaseError: there is something in the folder that is no file of a release.
        CalibrationError: this environment cannot calibrate again.
    """
    locks.tell_if_local(store.root)
    if recalibrate:
        recalibration.require_libraries()
    with ExitStack() as stack:
        # 1. What was released.
        provenance_of(folder)
        opened = stack.enter_context(foreign.opened(folder))
        limits.require_bounded(opened)
        for note in opened.notes:
            console.say(f"{folder}: {note}")
        provenance = stack.enter_context(store.scratch("release"))
        released = _take(opened, provenance)
        digest = canonical.sha256_file(provenance / STATEMENT)
        stack.enter_context(_left_there(folder, digest))
        stated = manifests.read(provenance)
        # 2. Whether it is whole, and this checkout the one that built it.
        preconditions.require_whole(stated, provenance)
        commit, _ = checkout.commit()
        _tell_source(stated, commit, preconditions.require_checkout(stated))
        # 3. What it was made from.
        job = _job(stated, folder, store, base, mirror)
        fetched = _fetch(job, stated)
        with _apart(job, digest) as apart:
            # 4. Once more.
            rebuilt = _rebuild(apart, fetched, provenance / record.FILE)
            dress = rebuilt["dress"]
            # 5. The same?
            wrote = (rebuilt["quantize"], rebuilt["graft"])
            listed = compare.listings(
                listing.of_rebuild(dress.digests, wrote), listing.of_release(provenance)
            )
            built = {name: dress.files / name for name in dress.digests}
            files = compare.stored(built, released, dress.digests) if released else None
            # 6. And on this machine?
            again = (
                recalibration.compare(apart, fetched, provenance / record.FILE)
                if recalibrate
                else None
            )
            _require_there(folder, digest)
            size = sum((dress.files / path).stat().st_size for path in dress.digests)
            found = Reproduction(
                variant=stated.asked.target,
                manifest=digest,
                commit=commit,
                finished=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                written=dress.digests,
                listed=listed,
                files=files,
                scales=again,
                bytes=size,
            )
            if found.identical:
                delete(apart.store.root)
            else:
                console.say(f"the rebuild is kept in {dress.files}")
    return found


def show(found: Reproduction, folder: Path) -> None:
    """Prints what the reproduction found; one line, if all is identical.

    Raises:
        DifferenceError: the release is not reproduced; the message says what that means.
    """
    if found.scales is not None:
        recalibration.show(found.scales)
    if found.identical:
        compared = tables.extent(found.listed, found.bytes)
        where = "the digests that it lists" if found.files is None else "its files"
        tables.say(f"{folder} is reproduced: {compared}, identical to {where}")
        return
    differing = found.listed if found.files is None or found.files.identical else found.files
    tables.show(differing)
    raise DifferenceError(f"{folder}: {_meaning(found)}: {tables.counts(differing)}.")


def _meaning(found: Reproduction) -> str:
    if found.files is not None and found.files.identical:
        return "the rebuild has the same files, but the release lists other digests"
    if found.files is not None and found.listed.identical:
        return "the rebuild is what the release lists, so its files were changed since"
    return "is not reproduced"


def _tell_source(stated: Manifest, here: str, others: Sequence[str]) -> None:
    built = stated.commit.digest.git_commit if stated.commit else "unknown"
    if here != built:
        console.say(
            f"built from commit {built}, here is {here}; the recipe, and the modules and "
            "distributions that write the checkpoint, are equal"
        )
    if others:
        console.say(
            f"{len(others)} other things differ, first {others[0]}; no byte depends on them"
        )


def _take(opened: foreign.Folder, out: Path) -> dict[str, Path]:
    """Copies the provenance of a release, which is small.

    Returns:
        The files of the release that are compared, each with the path at which it is read; none if
        the folder is the provenance alone.
    """
    alone = f"{PROVENANCE}/{STATEMENT}" not in opened.files
    for name, file in opened.files.items():
        top, _, inside = name.partition("/")
        inside = name if alone else inside if top == PROVENANCE else ""
        if inside:
            (out / inside).parent.mkdir(parents=True, exist_ok=True)
            (out / inside).write_bytes(file.read(limits.most_of(name)))
    if alone:
        return {}
    return {name: one.path for name, one in opened.files.items() if compare.is_compared(name)}


def _job(
    stated: Manifest, folder: Path, store: Store, base: Path | None, mirror: Path | None
) -> Job:
    job = job_for(stated, folder, store, base, mirror)
    if base is not None and not job.rehearsal:
        raise ManifestError(
            f"{folder}: is no rehearsal, so its base comes from the hub or from a mirror, not from "
            f"{base}.",
            remedy="no-local-base",
        )
    return fetch.choose(job)


def _fetch(job: Job, stated: Manifest) -> Result:
    results = pipeline.run(job, until="fetch")
    pipeline.recheck(results, trusted={"fetch": (INPUTS,)})
    fetched = results["fetch"]
    inputs = document.read(Inputs, fetched.files / INPUTS).files
    if other := preconditions.require_inputs(stated, inputs):
        console.say(f"perplexity was scored on another text ({other[0]}); no byte depends on it")
    return fetched


@contextmanager
def _left_there(folder: Path, digest: str) -> Iterator[None]:
    """Tells of any error within why it came to that, if the release was replaced meanwhile."""
    try:
        yield
    except (HallmarkError, OSError) as error:
        try:
            _require_there(folder, digest)
        except ManifestError as replaced:
            raise replaced from error
        raise


def _require_there(folder: Path, digest: str) -> None:
    """Refuses to say anything of a release whose manifest is not the one with this digest."""
    try:
        found = canonical.sha256_file(provenance_of(folder) / STATEMENT)
    except (FetchError, FileNotFoundError, NotADirectoryError):
        found = "nothing"
    if found != digest:
        raise ManifestError(
            f"{folder}: another release was put in its place while it was rebuilt: its "
            f"{STATEMENT} had sha256 {digest} and has {found}. Run again."
        )


@contextmanager
def _apart(job: Job, key: str) -> Iterator[Job]:
    """The job with an empty store of its own, which nobody else uses meanwhile.

    After an error the store is removed, since the next rebuild begins with an empty one anyway.

    Raises:
        StoreError: an earlier rebuild cannot be moved away.
    """
    with job.store.lock("reproduce", key):
        root = job.store.clear_rebuild(key)
        root.mkdir()  # fails on what is still there: its results were not rebuilt
        try:
            yield replace(job, store=Store(root))
        except BaseException:
            with signals.held():
                delete(root)
            raise


def _rebuild(job: Job, fetched: Result, recorded: Path) -> dict[str, Result]:
    """Runs the steps after calibration, the record in the place of that step's result."""

    def take_over(out: Path) -> None:
        shutil.copyfile(recorded, out / record.FILE)

    calibrated = job.store.make("calibrate", "released", take_over, {})
    given = {"fetch": fetched, "calibrate": calibrated}
    return pipeline.run(job, until="dress", given=given)
