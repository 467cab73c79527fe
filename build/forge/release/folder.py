"""The folder to upload: put there from the store, whole or not at all, and read back."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from forge.core import checkout, console, store
from forge.core.errors import FetchError, StoreError
from forge.core.store import Result, Store
from forge.manifest import provenance
from forge.manifest.names import ADDED, PROVENANCE, STATEMENT
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


def place(results: Mapping[str, Result], target: Path) -> None:
    """Puts checkpoint and provenance at `target`, in place of what an earlier build left there.

    Raises:
        StoreError: `target` holds something that is no earlier build; it is left alone.
    """
    target = target.resolve()
    if _is_current(results, target):
        console.say(f"{target} is up to date")
        return
    if target.exists() and not (target / PROVENANCE / STATEMENT).is_file():
        raise StoreError(
            f"{target} exists and is no earlier build, so it is not replaced.",
            remedy="occupied",
            folder=target,
        )
    fresh = target.with_name(f".{target.name}.new")
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
    for path, source in _sources(results).items():
        store.link(source, fresh / path)
    if target.exists():
        target.rename(old)
    fresh.rename(target)
    shutil.rmtree(old, ignore_errors=True)
    console.say(f"{target} is ready")


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
    there = {p.relative_to(target).as_posix(): p for p in target.rglob("*") if p.is_file()}
    sources = _sources(results)
    return there.keys() - (ADDED - sources.keys()) == sources.keys() and all(
        store.stamp(there[path]) == store.stamp(source) for path, source in sources.items()
    )
