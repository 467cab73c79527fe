"""The folder to upload: put there from the store, whole or not at all, and read back."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from forge import pipeline
from forge.calibration import record
from forge.core import (
    canonical,
    checkout,
    console,
    disk,
    filesystem,
    placing,
    system_errors,
    walking,
)
from forge.core.errors import FetchError, ManifestError, StoreError
from forge.core.files import everything_in, hash_files, stamps
from forge.core.model import Level
from forge.core.results import Result, stamp
from forge.core.store import Store
from forge.manifest import document, provenance, sums
from forge.manifest.names import (
    ADDED,
    CONTENTS,
    ERRORS,
    PROVENANCE,
    SIGNATURES,
    STATEMENT,
    SUMS,
    TENSORS,
    VERIFICATION,
    is_of_input,
)
from forge.manifest.release_list import Release
from forge.manifest.statement import digests
from forge.manifest.verification import LEVELS
from forge.pipeline import Job
from forge.recipes import recipe

NAMED = 5  # files that an error names


@dataclass(frozen=True, kw_only=True)
class Found:
    """What lies where a build goes as it begins: the digest of a build's manifest, or None."""

    statement: str | None


def folder_for(job: Job) -> Path:
    """Where a variant's result goes unless told otherwise."""
    dist = checkout.ROOT / "dist"
    return (dist / "rehearsal" if job.rehearsal else dist) / job.recipe.name


def provenance_of(release: Path) -> Path:
    """The provenance folder of a release, which is the folder itself if it holds the manifest.

    Raises:
        FetchError: there is no manifest.
    """
    found = next((f for f in (release / PROVENANCE, release) if (f / STATEMENT).is_file()), None)
    if found is None:
        raise FetchError(f"{release}: has no {PROVENANCE}/{STATEMENT}, so it is no release.")
    return found


def job_of(release: Path, store_: Store, base: Path | None, mirror: Path | None) -> Job:
    """What was asked for when a release was built, from its own manifest.

    Raises:
        FetchError: the folder has no manifest, or was made from a local base that is not given.
        ManifestError: the manifest is malformed.
    """
    stated = provenance.read(provenance_of(release))
    local = not stated.asked.source.startswith("standin:")
    if stated.rehearsal and base is None and local:
        raise FetchError(
            f"{release}: was rehearsed on a local base, and none is given.", remedy="local-base"
        )
    return Job(
        recipe=recipe.find(stated.asked.target),
        store=store_,
        rehearsal=stated.rehearsal,
        base=base,
        mirror=mirror,
    )


def names_of_build(provenance_: Path) -> set[str]:
    """The files that a build leaves, by path: those of its checkpoint's list, and its provenance.

    Raises:
        ManifestError: it has no such list, or no manifest.
    """
    listed = {STATEMENT, SUMS, TENSORS, VERIFICATION, ERRORS, record.FILE}
    stated = provenance.read(provenance_).results
    listed |= {name.removeprefix(f"{PROVENANCE}/") for name in stated if is_of_input(name)}
    return {*sums.read(provenance_ / SUMS), *(f"{PROVENANCE}/{name}" for name in listed)}


@contextmanager
def changing(folder: Path, what: str) -> Iterator[Path]:
    """Locks a folder that is there, to put a changed one in its place; gives its real path.

    Args:
        folder: the folder, or a link to it.
        what: the end of a sentence that begins with the folder, for what is not done on an error.

    Raises:
        FetchError: there is no such folder.
        FileSystemError: the system refused; the folder is what it was.
    """
    folder = _resolved(folder)
    if not folder.parent.is_dir():
        raise FetchError(f"{folder}: there is no such folder.")
    try:
        with placing.locked(folder, _has_statement):
            yield folder
    except OSError as error:
        if not system_errors.concerns_files(error):
            raise
        raise system_errors.of_files(error, f"{folder} {what}", folder.parent) from error


def require_apart(target: Path, job: Job) -> None:
    """Refuses a folder in the store, and one in which lies the store or what a build is made from.

    Raises:
        StoreError: it says which of them.
        OSError: links lead back to themselves.
    """
    target, root = _resolved(target), job.store.root
    if target.is_relative_to(root):
        raise StoreError(
            f"{target}: lies in the store {root}, and no build goes there.", remedy="no-place"
        )
    for what, path in (("store", root), ("base", job.base), ("mirror", job.mirror)):
        if path is not None and filesystem.real(path).is_relative_to(target):
            is_ = "is" if filesystem.real(path) == target else "holds"
            raise StoreError(
                f"{target}: {is_} the {what} {path}, so no build goes there.", remedy="no-place"
            )


def look(target: Path) -> Found:
    """What lies at `target`, before a build begins whose result goes there.

    Raises:
        StoreError: no build can be placed there.
        OSError: the system lets nothing be made there.
    """
    target = _resolved(target)
    with placing.locked(target, _has_statement):
        _require_free(target)
        return Found(statement=_statement(target))


def place(
    results: Mapping[str, Result],
    target: Path,
    *,
    replace: bool = False,
    found: Found | None = None,
) -> None:
    """Puts checkpoint and provenance at `target`, in place of what an earlier build left there.

    Args:
        results: those of all steps.
        target: the folder.
        replace: also in place of a signed release, and of files that are not a build's or were
            changed since.
        found: what was there when this build began.

    Raises:
        StoreError: `target` holds what is not replaced, or what another build placed there since
            this one began; or a stored file is damaged. `target` is left alone.
        SpaceError: the store is on another file system, and there is no room for a copy.
        FileSystemError: the system refused; what was at `target` is still there.
    """
    target = _resolved(target)
    try:
        with placing.locked(target, _has_statement):
            _require_free(target)
            statement = _statement(target)
            if statement is not None:
                if _is_current(results, target):
                    console.say(f"{target} is up to date")
                    return
                if found is not None and found.statement != statement:
                    raise StoreError(
                        f"{target}: another build, with another result, was placed there while "
                        "this one ran. Its result is kept; run again to place it."
                    )
                if not replace:
                    _require_nothing_lost(results, target)
                _tell_level(results, target)
            disk.require(target.parent, _copied(results, target) or 0, f"a copy at {target}")
            pipeline.recheck(dict(results), trusted={"attest": ("",)}, whole=pipeline.CHECKPOINT)
            _put(results, target)
    except OSError as error:
        raise system_errors.of_files(
            error, f"{target} is not placed", target.parent, _copied(results, target)
        ) from error
    console.say(f"{target} is ready")


def _put(results: Mapping[str, Result], target: Path) -> None:
    def fill(fresh: Path) -> None:
        for path, source in _sources(results).items():
            filesystem.link(source, fresh / path)

    placing.put(target, fill)


def _copied(results: Mapping[str, Result], target: Path) -> int | None:
    """The bytes that must be copied, since the store is on another file system; else None."""
    if not target.parent.is_dir():
        return None
    device = target.parent.stat().st_dev
    stats = (path.stat() for path in _sources(results).values())
    return sum(stat.st_size for stat in stats if stat.st_dev != device) or None


def _resolved(target: Path) -> Path:
    """The folder itself, which a link may lead to.

    Raises:
        StoreError: it is the root of the file system.
    """
    target = filesystem.real(target)
    if target == target.parent:
        raise StoreError(
            f"{target}: is the root of the file system, and no build goes there.", remedy="no-place"
        )
    return target


def _require_free(target: Path) -> None:
    """Refuses what is no build, an empty folder excepted; nothing allows to replace that.

    Raises:
        StoreError: it is something else, of which no more than one name was read.
    """
    if not os.path.lexists(target) or _has_statement(target):
        return
    if target.is_dir():
        with os.scandir(target) as entries:
            if next(entries, None) is None:
                return
    raise StoreError(
        f"{target} exists and is no earlier build, so it is not replaced.",
        remedy="occupied",
        folder=target,
    )


def _require_nothing_lost(results: Mapping[str, Result], target: Path) -> None:
    """Refuses a signed release, and a folder in which there is more than a build's, or other.

    Raises:
        StoreError: it names what would be lost.
    """
    sources, left = _sources(results), dict[str, str]()
    known = {*sources, *ADDED}
    try:
        known |= names_of_build(target / PROVENANCE)
        left = _left(target / PROVENANCE)
    except ManifestError as error:
        console.say(f"what an earlier build left at {target} is not known: {error}")
    there = everything_in(target)
    reasons = []
    if edited := _edited(target, {name: left[name] for name in there & left.keys()}, sources):
        reasons.append(f"has files that were changed since ({_named(edited)})")
    if signed := sorted(there & set(SIGNATURES)):
        reasons.append(f"is signed ({_named(signed)})")
    if foreign := sorted(there - known):
        reasons.append(f"has files that are not a build's ({_named(foreign)})")
    if reasons:
        raise StoreError(
            f"{target}: {' and '.join(reasons)}, so another build does not replace it.",
            remedy="replace",
            folder=target,
        )


def _left(provenance_: Path) -> dict[str, str]:
    """The digests of the files that a build or a release left, as far as it lists them.

    Raises:
        ManifestError: one of its lists is not there, or malformed.
    """
    stated = provenance.read(provenance_).results
    listed = provenance_ / CONTENTS
    return {
        **(digests(document.read(Release, listed).subject) if listed.is_file() else {}),
        **{name: digest for name, digest in stated.items() if name.startswith(f"{PROVENANCE}/")},
        **sums.read(provenance_ / SUMS),
    }


def _edited(target: Path, left: Mapping[str, str], sources: Mapping[str, Path]) -> list[str]:
    """The files that are not what was left, sorted. Only those that the new build has not are read.

    Raises:
        FetchError: a file cannot be read.
    """
    paths = {name: target / name for name in sorted(left)}
    regular = {n: path for n, path in paths.items() if path.is_file() and not path.is_symlink()}
    moved = {
        name: path
        for name, path in regular.items()
        if name not in sources or stamp(path) != stamp(sources[name])
    }
    found = hash_files(moved, stamps(moved))
    changed = {name for name, file in found.items() if file.sha256 != left[name]}
    return sorted(changed | (paths.keys() - regular.keys()))


def _named(names: Sequence[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


def _tell_level(results: Mapping[str, Result], target: Path) -> None:
    """Says so where the new result is verified less than the one that it replaces."""
    try:
        before = _level(target / PROVENANCE)
    except ManifestError as error:
        console.say(f"how far the build at {target} was verified is not known: {error}")
        return
    after = _level(results["attest"].files)
    if LEVELS.index(after) < LEVELS.index(before):
        console.say(
            f"{target}: what is replaced was verified further ({before!r}) than what replaces it "
            f"({after!r})"
        )


def _level(provenance_: Path) -> Level:
    stated = provenance.read(provenance_)
    return stated.predicate.build_definition.internal_parameters.verified


def _has_statement(target: Path) -> bool:
    return (target / PROVENANCE / STATEMENT).is_file()


def _statement(target: Path) -> str | None:
    """The digest of the manifest at `target`."""
    if not _has_statement(target):
        return None
    return canonical.sha256_file(target / PROVENANCE / STATEMENT)


def _sources(results: Mapping[str, Result]) -> dict[str, Path]:
    """Every file of the release by its relative path."""
    dress, attest = results["dress"], results["attest"]
    return {path: dress.files / path for path in dress.digests} | {
        f"{PROVENANCE}/{path}": attest.files / path for path in attest.digests
    }


def _is_current(results: Mapping[str, Result], target: Path) -> bool:
    """Whether `target` holds the files of the store, and of others only what a release adds.

    A release has copies of its own, so size and modification time decide, as they do in the store.
    """
    there = {name: target / name for name in walking.files_below(target)}
    sources = _sources(results)
    return there.keys() - (ADDED - sources.keys()) == sources.keys() and all(
        stamp(there[path]) == stamp(source) for path, source in sources.items()
    )
