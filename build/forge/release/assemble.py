"""Turns a finished build into a release: its documents beside it, every file in one list.

The checkpoint is not touched: `SHA256SUMS` stays what any honest rebuild gives. What is added is
made from the provenance, and `release.json`, an in-toto statement of the type `release`
(https://github.com/in-toto/attestation/blob/main/spec/predicates/release.md), has every file of
the folder by digest, so that nothing in it is outside a signature.
"""

from collections.abc import Mapping
from pathlib import Path

from forge.core import console
from forge.core import store as stores
from forge.core.errors import ReleaseError
from forge.core.files import File, hash_files, names_in, stamps
from forge.manifest import provenance as manifests
from forge.manifest import release_list, sums
from forge.manifest.names import (
    ADDED,
    CONTENTS,
    DOCUMENTS,
    PROVENANCE,
    SIGNATURES,
    STATEMENT,
    SUMS,
)
from forge.release import card, facts, report
from forge.release.facts import Facts
from forge.release.folder import names_of_build, provenance_of

# The hub writes one of its own into a repository that has none; this is in the signed list.
ATTRIBUTES = """\
*.safetensors filter=lfs diff=lfs merge=lfs -text
tokenizer.json filter=lfs diff=lfs merge=lfs -text
"""


def assemble(folder: Path) -> None:
    """Adds what a release has beyond a build; signatures of another state are removed.

    Every file is read once, as it is made the release's own.

    Raises:
        FetchError: the folder is no build.
        RecipeError: the recipe here is not the one that it was built from.
        ReleaseError: a file of the checkpoint has the name of a document or is not what was
            built, or there is a file that neither a build nor a release puts there.
    """
    folder = folder.resolve()
    provenance = provenance_of(folder)
    _require_free_names(provenance)
    _require_nothing_else(folder)
    # Its bytes may be those of the store, which nobody is to change by way of a release.
    known = {name: digest for name in names_in(folder) if (digest := stores.own(folder / name))}
    found = facts.read(folder)
    for name, text in _documents(found).items():
        (folder / name).write_text(text, encoding="utf-8")
        known.pop(name, None)
    digests = _digests(folder, known)
    _require_as_built(provenance, digests)
    listed = _contents(folder, digests)
    if not (provenance / CONTENTS).is_file() or (provenance / CONTENTS).read_bytes() != listed:
        (provenance / CONTENTS).write_bytes(listed)
        for name in SIGNATURES:
            (folder / name).unlink(missing_ok=True)
    console.say(f"{folder} is a release: {len(names_in(folder))} files")
    if not found.errors:
        console.say("the build was not verified, so the error by layer is not in the report")


def contents(folder: Path) -> bytes:
    """`release.json` of a folder as it is now: every file, but for itself and the signatures."""
    return _contents(folder, _digests(folder, {}))


def require_current(folder: Path) -> dict[str, File]:
    """Refuses a folder whose list of files is not what is there.

    Returns:
        The files that are in the list, each read once.

    Raises:
        ReleaseError: it was never made a release, or was changed since.
    """
    path = folder / PROVENANCE / CONTENTS
    if not path.is_file():
        raise ReleaseError(
            f"{folder}: has no {PROVENANCE}/{CONTENTS}, so it is no release yet.",
            remedy="not-released",
            folder=folder,
        )
    paths = {name: folder / name for name in _listed(folder)}
    files = hash_files(paths, stamps(paths))
    if path.read_bytes() != _contents(folder, {name: one.sha256 for name, one in files.items()}):
        raise ReleaseError(
            f"{folder}: was changed since it was made a release.",
            remedy="not-released",
            folder=folder,
        )
    return files


def _digests(folder: Path, known: Mapping[str, str]) -> dict[str, str]:
    """The sha256 of what is listed; files whose digest is `known` are not read."""
    names = _listed(folder)
    paths = {name: folder / name for name in names if name not in known}
    read = {name: file.sha256 for name, file in hash_files(paths, stamps(paths)).items()}
    return {name: known.get(name) or read[name] for name in names}


def _listed(folder: Path) -> list[str]:
    apart = {f"{PROVENANCE}/{CONTENTS}", *SIGNATURES}
    return [name for name in names_in(folder) if name not in apart]


def _contents(folder: Path, digests: Mapping[str, str]) -> bytes:
    target = manifests.read(folder / PROVENANCE).asked.target
    named = release_list.purl(target, digests[f"{PROVENANCE}/{STATEMENT}"])
    return release_list.release(digests, named).encoded()


def _documents(found: Facts) -> dict[str, str]:
    made = {
        "README.md": card.card(found),
        "NOTICE": card.notice(found),
        "report.html": report.report(found),
        ".gitattributes": ATTRIBUTES,
    }
    return {name: made[name] for name in DOCUMENTS}


def _require_as_built(provenance: Path, digests: Mapping[str, str]) -> None:
    """Refuses files that are not those that were built, such as those on a failing disk."""
    for name, built in sums.read(provenance / SUMS).items():
        if digests.get(name) != built:
            raise ReleaseError(
                f"{name}: has sha256 {digests.get(name, 'nothing')}, {SUMS} says {built}; "
                "it is not what was built. Build it again."
            )
    for name, built in manifests.read(provenance).results.items():
        if name.startswith(f"{PROVENANCE}/") and digests.get(name) != built:
            raise ReleaseError(
                f"{name}: has sha256 {digests.get(name, 'nothing')}, {STATEMENT} says {built}; "
                "it is not what was built. Build it again."
            )


def _require_nothing_else(folder: Path) -> None:
    """Refuses what got into the folder by accident, a key among others."""
    provenance = folder / PROVENANCE
    known = {*names_of_build(provenance), *ADDED}
    if extra := sorted({*names_in(folder)} - known):
        raise ReleaseError(f"{folder / extra[0]}: is no file of this build. Move it elsewhere.")


def _require_free_names(provenance: Path) -> None:
    for name in sums.read(provenance / SUMS):
        if name in DOCUMENTS:
            raise ReleaseError(
                f"{name}: is a file of the checkpoint, and a release puts one of its own there. "
                "Leave it out of the recipe's files."
            )
