"""Turns a finished build into a release: its documents beside it, every file in one list.

The checkpoint is not touched: `SHA256SUMS` stays what any honest rebuild gives. What is added is
made from the provenance, and `release.json`, an in-toto statement of the type `release`
(https://github.com/in-toto/attestation/blob/main/spec/predicates/release.md), has every file of
the folder by digest, so that nothing in it is outside a signature.
"""

import os
import shutil
import stat
from collections.abc import Callable, Collection, Mapping
from hashlib import sha256
from pathlib import Path

from forge.core import canonical, console, disk, foreign, placing, system_errors
from forge.core.errors import ReleaseError
from forge.core.files import File, everything_in, hash_files, names_in, pour, stamps
from forge.manifest import document, limits, release_list, summaries, sums
from forge.manifest import provenance as manifests
from forge.manifest.names import (
    ADDED,
    CONTENTS,
    DOCUMENTS,
    PROVENANCE,
    SIGNATURES,
    STATEMENT,
    SUMMARIES,
    SUMS,
    VERIFICATION,
)
from forge.manifest.own_engine import NOT_LOCKED
from forge.manifest.release_list import Content
from forge.manifest.verification import Report
from forge.release import documents, facts
from forge.release.folder import changing, names_of_build, provenance_of

_WITHIN = f"{PROVENANCE}/"
_LIST = f"{_WITHIN}{CONTENTS}"


def assemble(folder: Path, *, replace: bool = False) -> None:
    """Puts a release in place of a build or of an older release; an equal one is left alone.

    Every file is read once. A file whose bytes have other names, such as one in the store, is
    copied. Others are moved by name.

    Args:
        folder: the finished build, or the release.
        replace: also a signed release, whose signatures are lost if its files change.

    Raises:
        FetchError: the folder is no build.
        RecipeError: the recipe here is not the one that it was built from.
        ReleaseError: a file of the checkpoint has the name of a document or is not what was
            built, there is a file that neither a build nor a release puts there, or signatures
            would be lost.
        SpaceError: there is no room for the copies.
        FileSystemError: the system refused. On any error the folder is what it was.
    """
    with changing(folder, "is not made a release") as target:
        provenance = provenance_of(target)
        _require_regular(target)
        _require_free_names(provenance)
        _require_nothing_else(target)
        _require_whole(target)
        found = facts.read(target)
        _require_locked_engine(provenance)
        _put(
            target,
            {**documents.documents(found), **_summaries(target, found)},
            replace=replace,
        )
        console.say(f"{target} is a release: {len(names_in(target))} files")
    if not found.errors:
        console.say("the build was not verified, so the error by layer is not in the report")


def _put(folder: Path, documents: Mapping[str, bytes], *, replace: bool) -> None:
    """Replaces the folder by the release with these documents, unless it is that already."""
    names = sorted(everything_in(folder) - {*documents, _LIST, *SIGNATURES})
    shared = [name for name in names if not _is_own(folder / name)]
    own = [name for name in names if name not in shared]
    found = {name: Content(sha256(data).hexdigest(), len(data)) for name, data in documents.items()}
    found |= _hash(folder, own)
    if not shared and _is_there(folder, {**documents, _LIST: _checked(folder, found)}):
        return
    signed = _signatures(folder)

    def fill(fresh: Path) -> None:
        found.update(_copy(shared, folder, fresh))
        made = {**documents, _LIST: _checked(folder, found)}
        if _has(folder / _LIST, made[_LIST]):
            made |= {name: (folder / name).read_bytes() for name in signed}
        elif signed and not replace:
            raise ReleaseError(
                f"{folder}: is signed ({', '.join(signed)}), and its files would change, so these "
                "signatures would be lost.",
                remedy="replace-signed",
            )
        placing.keep(own, folder, fresh)
        for name, data in made.items():
            (fresh / name).write_bytes(data)

    needed = sum((folder / name).stat().st_size for name in shared)
    disk.require(folder.parent, needed, f"a copy of what {folder} shares with the store")
    try:
        placing.put(folder, fill)
    except OSError as error:
        raise system_errors.of_files(
            error, f"{folder} is not made a release", folder.parent, needed or None
        ) from error
    if lost := [name for name in signed if not (folder / name).exists()]:
        console.say(f"{folder}: {', '.join(lost)} signed other files and are removed. Sign again.")


def _checked(folder: Path, found: Mapping[str, Content]) -> bytes:
    """`release.json` of these files, which are what was built."""
    _require_as_built(folder, {name: content.sha256 for name, content in found.items()})
    return _contents(folder, found)


def _signatures(folder: Path) -> list[str]:
    return [name for name in SIGNATURES if os.path.lexists(folder / name)]


def _is_there(folder: Path, made: Mapping[str, bytes]) -> bool:
    """Whether a release has these files already, and shares no byte with anybody."""
    return all(_is_own(folder / name) for name in (*made, *_signatures(folder))) and all(
        _has(folder / name, data) for name, data in made.items()
    )


def _has(path: Path, data: bytes) -> bool:
    return path.is_file() and path.read_bytes() == data


def _is_own(path: Path) -> bool:
    """Whether it is a file whose bytes have no other name."""
    if not os.path.lexists(path):
        return False
    status = path.lstat()
    return stat.S_ISREG(status.st_mode) and status.st_nlink == 1


def _copy(names: Collection[str], folder: Path, fresh: Path) -> dict[str, Content]:
    """Copies files into the new folder; what they are, taken on the way."""
    total = sum((folder / name).stat().st_size for name in names)
    with console.bytes_bar("copying", total) as advance:
        return {name: _copied(folder / name, fresh / name, advance) for name in names}


def _copied(source: Path, target: Path, advance: Callable[[int], None]) -> Content:
    target.parent.mkdir(parents=True, exist_ok=True)
    digest, size = sha256(), 0
    with source.open("rb", buffering=0) as data, target.open("xb") as copy:

        def write(chunk: bytes) -> None:
            nonlocal size
            copy.write(chunk)
            size += len(chunk)
            advance(len(chunk))

        pour(data, digest.update, write)
    shutil.copystat(source, target)
    return Content(digest.hexdigest(), size)


def require_current(folder: Path) -> dict[str, File]:
    """Refuses a folder whose files differ from its list.

    Returns:
        The list, and the files that are in it, each read once.

    Raises:
        ReleaseError: it was never made a release, was changed since, or is not what was built.
    """
    path = folder / PROVENANCE / CONTENTS
    if not path.is_file():
        raise ReleaseError(
            f"{folder}: has no {PROVENANCE}/{CONTENTS}, so it is no release yet.",
            remedy="not-released",
            folder=folder,
        )
    _require_regular(folder)
    paths = {name: folder / name for name in _listed(folder)}
    files = hash_files(paths, stamps(paths))
    listed = path.read_bytes()
    if listed != _contents(folder, _contents_of(files)):
        raise ReleaseError(
            f"{folder}: was changed since it was made a release.",
            remedy="not-released",
            folder=folder,
        )
    _require_as_built(folder, {name: file.sha256 for name, file in files.items()})
    there = File(path=path, sha256=sha256(listed).hexdigest(), bytes=len(listed))
    return {**files, _LIST: there}


def _require_regular(folder: Path) -> None:
    """Refuses a folder that the first step of verifying a release would refuse, and a hub's cache.

    Raises:
        ReleaseError: it says what is in the folder.
    """
    with foreign.opened(folder) as found:
        limits.require_bounded(found)
        if found.cached:
            raise ReleaseError(
                f"{folder}: is a snapshot in a hub's cache, whose files are the hub client's. "
                "Copy it with `cp -rL` and take the copy."
            )


def _hash(folder: Path, names: Collection[str]) -> dict[str, Content]:
    """What files are, each read once."""
    paths = {name: folder / name for name in names}
    return _contents_of(hash_files(paths, stamps(paths)))


def _contents_of(files: Mapping[str, File]) -> dict[str, Content]:
    return {name: Content(file.sha256, file.bytes) for name, file in files.items()}


def _listed(folder: Path) -> list[str]:
    apart = {_LIST, *SIGNATURES}
    return [name for name in names_in(folder) if name not in apart]


def _contents(folder: Path, found: Mapping[str, Content]) -> bytes:
    target = manifests.read(folder / PROVENANCE).asked.target
    named = release_list.purl(target, found[f"{PROVENANCE}/{STATEMENT}"].sha256)
    return release_list.release(found, named).encoded()


def _summaries(folder: Path, found: facts.Facts) -> Mapping[str, bytes]:
    """What follows from the provenance: the test result and the bill of materials."""
    provenance = folder / PROVENANCE
    return summaries.documents(
        manifests.read(provenance),
        canonical.sha256_file(provenance / STATEMENT),
        found.recipe,
        document.read(Report, provenance / VERIFICATION),
        found.licence,
    )


def _require_as_built(folder: Path, digests: Mapping[str, str]) -> None:
    """Refuses files that are not those that were built, such as some on a failing disk."""
    _require_equal(digests, sums.read(folder / PROVENANCE / SUMS), SUMS)
    stated = manifests.read(folder / PROVENANCE).results
    there = {name for name in digests if name.startswith(_WITHIN)}
    there -= {f"{_WITHIN}{STATEMENT}", *SUMMARIES}
    if extra := sorted(there - stated.keys()):
        raise ReleaseError(f"{extra[0]}: is not in {STATEMENT}. Move it elsewhere.")
    _require_equal(digests, {n: d for n, d in stated.items() if n.startswith(_WITHIN)}, STATEMENT)


def _require_whole(folder: Path) -> None:
    """Refuses documents of the build that are not those of its manifest, before they are read."""
    stated = manifests.read(folder / PROVENANCE).results
    there = {name for name in stated if name.startswith(_WITHIN) and (folder / name).is_file()}
    digests = {name: canonical.sha256_file(folder / name) for name in there}
    _require_equal(digests, {name: stated[name] for name in there}, STATEMENT)


def _require_equal(digests: Mapping[str, str], expected: Mapping[str, str], where: str) -> None:
    for name, built in expected.items():
        if digests.get(name) != built:
            raise ReleaseError(
                f"{name}: has sha256 {digests.get(name, 'nothing')}, {where} says {built}; "
                "it is not what was built. Build it again."
            )


def _require_locked_engine(provenance: Path) -> None:
    """Refuses a report that `assay check` has made on a machine with packages of its own."""
    if document.read(Report, provenance / VERIFICATION).own_engine is not None:
        raise ReleaseError(f"{provenance / VERIFICATION}: {NOT_LOCKED}. Build it again.")


def _require_nothing_else(folder: Path) -> None:
    """Refuses what got into the folder by accident, a key among others."""
    provenance = folder / PROVENANCE
    there = everything_in(folder)
    known = {*names_of_build(provenance), *ADDED}
    if extra := sorted(
        name for name in there if name not in known or not (folder / name).is_file()
    ):
        raise ReleaseError(f"{folder / extra[0]}: is no file of this build. Move it elsewhere.")


def _require_free_names(provenance: Path) -> None:
    for name in sums.read(provenance / SUMS):
        if name in DOCUMENTS:
            raise ReleaseError(
                f"{name}: is a file of the checkpoint, and a release puts one of its own there. "
                "Leave it out of the recipe's files."
            )
