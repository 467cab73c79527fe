"""Places a build in its folder: checkpoint and provenance from the store, whole or not at all."""

import errno
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from forge import pipeline
from forge.core import canonical, console, disk, filesystem, placing, system_errors, walking
from forge.core.errors import StoreError
from forge.core.results import Result, stamp
from forge.manifest.names import ADDED, PROVENANCE, STATEMENT
from forge.pipeline import Job
from forge.release.folder import has_statement, resolved
from forge.release.replacement import require_free, require_nothing_lost, tell_level


@dataclass(frozen=True, kw_only=True)
class Occupant:
    """What lies where a build goes as it begins: the digest of a build's manifest, or None."""

    statement: str | None


def require_apart(target: Path, job: Job) -> None:
    """Refuses a folder in the store, and one in which lies the store or what a build is made from.

    Raises:
        StoreError: it says which of them.
        OSError: links lead back to themselves.
    """
    target, root = resolved(target), job.store.root
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


def look(target: Path) -> Occupant:
    """What lies at `target`, before a build begins whose result goes there.

    Raises:
        StoreError: no build can be placed there.
        OSError: the system lets nothing be made there.
    """
    target = resolved(target)
    with placing.locked(target, has_statement):
        require_free(target)
        return Occupant(statement=_statement(target))


def place(
    results: Mapping[str, Result],
    target: Path,
    *,
    replace: bool = False,
    found: Occupant | None = None,
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
    target = resolved(target)
    try:
        with placing.locked(target, has_statement):
            require_free(target)
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
                    require_nothing_lost(_sources(results), target)
            disk.require(target.parent, _copied(results, target) or 0, f"a copy at {target}")
            pipeline.recheck(dict(results), trusted={"attest": ("",)}, whole=pipeline.CHECKPOINT)
            if statement is not None:
                tell_level(results["attest"].files, target)
            _put(results, target)
    except OSError as error:
        if error.errno == errno.ENOENT:
            _require_stored(results)
        raise system_errors.of_files(
            error, f"{target} is not placed", target.parent, _copied(results, target)
        ) from error
    console.say(f"{target} is ready")


def _put(results: Mapping[str, Result], target: Path) -> None:
    def fill(fresh: Path) -> None:
        for path, source in _sources(results).items():
            filesystem.link(source, fresh / path)

    placing.put(target, fill)


def _require_stored(results: Mapping[str, Result]) -> None:
    """Refuses results of which a file is gone, as of one that fsck has found damaged meanwhile.

    Raises:
        StoreError: it names the file.
    """
    for path in _sources(results).values():
        if stamp(path) is None:
            raise StoreError(
                f"{path}: is not in the store any more. Run again, which makes that anew."
            )


def _copied(results: Mapping[str, Result], target: Path) -> int | None:
    """The bytes that must be copied, since the store is on another file system; else None."""
    if not target.parent.is_dir():
        return None
    device = target.parent.stat().st_dev
    stats = (path.stat() for path in _sources(results).values())
    return sum(stat.st_size for stat in stats if stat.st_dev != device) or None


def _statement(target: Path) -> str | None:
    """The digest of the manifest at `target`."""
    if not has_statement(target):
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
