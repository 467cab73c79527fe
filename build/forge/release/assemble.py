"""Turns a finished build into a release: its documents beside it, every file in one list.

The checkpoint is not touched: `SHA256SUMS` stays what any honest rebuild gives. What is added is
made from the provenance, and `release.json`, an in-toto statement of the type `release`
(https://github.com/in-toto/attestation/blob/main/spec/predicates/release.md), has every file of
the folder by digest, so that nothing in it is outside a signature.
"""

from pathlib import Path

from forge.calibration import record
from forge.core import console
from forge.core import store as stores
from forge.core.errors import ReleaseError
from forge.core.files import hash_files, names_in, stamps
from forge.core.store import Store
from forge.manifest import provenance as manifests
from forge.manifest import release_list
from forge.manifest.names import (
    ADDED,
    CONTENTS,
    DOCUMENTS,
    ERRORS,
    PROVENANCE,
    SIGNATURES,
    STATEMENT,
    SUMS,
    TENSORS,
    VERIFICATION,
)
from forge.release import card, facts, report
from forge.release.facts import Facts
from forge.release.folder import provenance_of
from forge.tensors import quantization_error, tensorfile
from forge.tensors.plan import make_plan

# The hub writes one of its own into a repository that has none; this is in the signed list.
ATTRIBUTES = """\
*.safetensors filter=lfs diff=lfs merge=lfs -text
tokenizer.json filter=lfs diff=lfs merge=lfs -text
"""


def assemble(folder: Path, store: Store) -> None:
    """Adds what a release has beyond a build; signatures of another state are removed.

    Raises:
        FetchError: the folder is no build.
        RecipeError: the recipe here is not the one that it was built from.
        ReleaseError: a file of the checkpoint has the name of a document, or there is a file that
            neither a build nor a release puts there.
    """
    folder = folder.resolve()
    provenance = provenance_of(folder)
    _require_free_names(provenance)
    _require_nothing_else(folder)
    for name in names_in(folder):
        # Its bytes may be those of the store, which nobody is to change by way of a release.
        stores.own(folder / name)
    errors = provenance / ERRORS
    if not errors.is_file():
        _measure_errors(folder, store, errors)
    found = facts.read(folder)
    for name, text in _documents(found).items():
        (folder / name).write_text(text, encoding="utf-8")
    listed = contents(folder)
    if not (provenance / CONTENTS).is_file() or (provenance / CONTENTS).read_bytes() != listed:
        (provenance / CONTENTS).write_bytes(listed)
        for name in SIGNATURES:
            (folder / name).unlink(missing_ok=True)
    console.say(f"{folder} is a release: {len(names_in(folder))} files")
    if not found.errors:
        console.say("the base is not in the store, so the error by layer is not in the report")


def contents(folder: Path) -> bytes:
    """`release.json` of a folder as it is now: every file, but for itself and the signatures."""
    apart = {f"{PROVENANCE}/{CONTENTS}", *SIGNATURES}
    paths = {name: folder / name for name in names_in(folder) if name not in apart}
    digests = {name: file.sha256 for name, file in hash_files(paths, stamps(paths)).items()}
    target = manifests.read(folder / PROVENANCE).asked.target
    named = release_list.purl(target, digests[f"{PROVENANCE}/{STATEMENT}"])
    return release_list.release(digests, named).encoded()


def require_current(folder: Path) -> None:
    """Refuses a folder whose list of files is not what is there.

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
    if path.read_bytes() != contents(folder):
        raise ReleaseError(
            f"{folder}: was changed since it was made a release.",
            remedy="not-released",
            folder=folder,
        )


def _documents(found: Facts) -> dict[str, str]:
    made = {
        "README.md": card.card(found),
        "NOTICE": card.notice(found),
        "report.html": report.report(found),
        ".gitattributes": ATTRIBUTES,
    }
    return {name: made[name] for name in DOCUMENTS}


def _built(provenance: Path) -> list[str]:
    """The files that `SHA256SUMS` lists."""
    lines = (provenance / SUMS).read_text(encoding="utf-8").splitlines()
    return [line.partition("  ")[2] for line in lines]


def _require_nothing_else(folder: Path) -> None:
    """Refuses what got into the folder by accident, a key among others."""
    provenance = folder / PROVENANCE
    beside = (STATEMENT, SUMS, TENSORS, VERIFICATION, record.FILE)
    known = {*_built(provenance), *ADDED, *(f"{PROVENANCE}/{name}" for name in beside)}
    if extra := sorted({*names_in(folder)} - known):
        raise ReleaseError(f"{folder / extra[0]}: is no file of this build. Move it elsewhere.")


def _require_free_names(provenance: Path) -> None:
    for name in _built(provenance):
        if name in DOCUMENTS:
            raise ReleaseError(
                f"{name}: is a file of the checkpoint, and a release puts one of its own there. "
                "Leave it out of the recipe's files."
            )


def _measure_errors(folder: Path, store: Store, path: Path) -> None:
    """Writes the error of every linear, if the store still has the base that it was made from."""
    step = manifests.read(path.parent).steps.get("fetch")
    fetched = store.get("fetch", step.annotations.key) if step else None
    if step is None or fetched is None or fetched.digests != step.annotations.outputs:
        return
    variant = facts.read(folder).recipe
    base, stored = (tensorfile.read_checkpoint(one) for one in (fetched.files / "base", folder))
    plan = make_plan(variant, base)
    measured = quantization_error.measure(plan, base, stored, variant.layout.loader)
    path.write_text(quantization_error.lines(measured), encoding="utf-8")
