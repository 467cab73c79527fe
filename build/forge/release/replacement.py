"""Whether a build may replace what is in its place: only if nothing is lost, or if asked."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from forge.core import console
from forge.core.errors import ManifestError, StoreError
from forge.core.files import everything_in, hash_files, stamps
from forge.core.model import Level
from forge.core.results import stamp
from forge.manifest import document, provenance, sums
from forge.manifest.names import ADDED, CONTENTS, PROVENANCE, SIGNATURES, SUMS
from forge.manifest.release_list import Release
from forge.manifest.statement import digests
from forge.manifest.verification import LEVELS
from forge.release.folder import has_statement, names_of_build

NAMED = 5  # files that an error names


def require_free(target: Path) -> None:
    """Refuses what is no build, an empty folder excepted; nothing allows to replace that.

    Raises:
        StoreError: it is something else, of which no more than one name was read.
    """
    if not os.path.lexists(target) or has_statement(target):
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


def require_nothing_lost(sources: Mapping[str, Path], target: Path) -> None:
    """Refuses a signed release, and a folder in which there is more than a build's, or other.

    Args:
        sources: the files of the new build, by their names in `target`.
        target: what is there now.

    Raises:
        StoreError: it names what would be lost.
    """
    left = dict[str, str]()
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


def tell_level(provenance_: Path, target: Path) -> None:
    """Says so if the new build, of this provenance, is verified less than what it replaces."""
    try:
        before = _level(target / PROVENANCE)
    except ManifestError as error:
        console.say(f"how far the build at {target} was verified is not known: {error}")
        return
    after = _level(provenance_)
    if LEVELS.index(after) < LEVELS.index(before):
        console.say(
            f"{target}: what is replaced was verified further ({before!r}) than what replaces it "
            f"({after!r})"
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


def _level(provenance_: Path) -> Level:
    stated = provenance.read(provenance_)
    return stated.predicate.build_definition.internal_parameters.verified
