"""The folder of a build or of a release: where it is, which job it is of, and its lock."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from forge.calibration import record
from forge.core import checkout, filesystem, placing, system_errors
from forge.core.errors import FetchError, StoreError
from forge.core.store import Store
from forge.manifest import provenance, sums
from forge.manifest.names import (
    ERRORS,
    PROVENANCE,
    STATEMENT,
    SUMS,
    TENSORS,
    VERIFICATION,
    is_of_input,
)
from forge.manifest.provenance import Manifest
from forge.pipeline import Job
from forge.recipes import recipe


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
    return job_for(provenance.read(provenance_of(release)), release, store_, base, mirror)


def job_for(
    stated: Manifest, release: Path, store_: Store, base: Path | None, mirror: Path | None
) -> Job:
    """As :func:`job_of`, by a manifest that was read already."""
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
    folder = resolved(folder)
    if not folder.parent.is_dir():
        raise FetchError(f"{folder}: there is no such folder.")
    try:
        with placing.locked(folder, has_statement):
            yield folder
    except OSError as error:
        if not system_errors.concerns_files(error):
            raise
        raise system_errors.of_files(error, f"{folder} {what}", folder.parent) from error


def resolved(target: Path) -> Path:
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


def has_statement(target: Path) -> bool:
    """Whether a folder is a build or a release: it has a manifest."""
    return (target / PROVENANCE / STATEMENT).is_file()
