"""The pieces that every command places its results with, tried by themselves.

They make few calls, so that the short sample can try every one of them.
"""

import os
import stat
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from faults.commands import Command, furnish, put_away, told

from forge import remedies
from forge.core import commandline, filesystem, placing, system_errors
from forge.core.errors import SigningError
from forge.manifest import schemas
from forge.release import keys

OLD, NEW = b"old" * 5, b"new" * 50_000
GONE = f"gone{schemas.SUFFIX}"
SCHEMAS = tuple(f"{name}{schemas.SUFFIX}" for name in schemas.MODELS)


def run_by(work: Callable[[Path], object], world: Path) -> None:
    """Runs a piece as commands do: an error of the system is one of files."""

    def wrapped() -> None:
        try:
            work(world)
        except OSError as error:
            raise system_errors.of_files(error, "it is not placed", world) from error
        sys.exit(0)

    commandline.run(wrapped, remedies.remedy)


def fill(folder: Path, data: bytes) -> None:
    """A folder as a build leaves it: with a folder in it, and two names of the same bytes."""
    (folder / "a").write_bytes(data)
    (folder / "deep").mkdir()
    os.link(folder / "a", folder / "deep" / "b")


def prepare_none(fixed: Path, world: Path) -> None:
    del fixed
    furnish(world)


def prepare_folder(fixed: Path, world: Path) -> None:
    prepare_none(fixed, world)
    (world / "out").mkdir()
    fill(world / "out", OLD)


def place(world: Path) -> None:
    with placing.locked(world / "out"):
        placing.put(world / "out", lambda folder: fill(folder, NEW))


def place_without_exchange(world: Path) -> None:
    placing.exchange = lambda *_: False
    place(world)


def prepare_files(fixed: Path, world: Path) -> None:
    prepare_none(fixed, world)
    for name in ("file", "record"):
        (world / name).write_bytes(OLD)


def write(world: Path) -> None:
    """Files that replace others, that are new, and one that is made in a folder beside it."""
    placing.write(world / "file", NEW)
    filesystem.replace(world / "record", NEW)
    placing.write(world / "below", NEW)
    with placing.scratch(world / "made") as folder:
        (folder / "part").write_bytes(NEW)
        made = (folder / "part").read_bytes()
    placing.write(world / "made", made)
    try:
        placing.write(world / "only", NEW, new=True)
    except FileExistsError:  # by the run before, which may have been killed after that
        placing.clear(world / "only")


def prepare_schemas(fixed: Path, world: Path) -> None:
    """Schemas of before, and one of a document that is gone."""
    prepare_none(fixed, world)
    for name in (*SCHEMAS, GONE):
        (world / name).write_bytes(OLD)


def make_keys(world: Path) -> None:
    """A key that is whole is never replaced, by the next run neither."""
    whole = (world / "key.pub").exists()
    try:
        keys.generate(world / "key")
    except SigningError:
        if not whole:
            raise


def check_keys(world: Path) -> list[str]:
    """The private half is for its owner alone; the public one, if it is there, belongs to it."""

    def check() -> None:
        private, public = world / "key", world / "key.pub"
        if stat.S_IMODE(private.stat().st_mode) != 0o600:
            raise ValueError("others may read the key")
        keyid = keys.signer(private).public_key.keyid
        if public.exists() and keys.public(public).keyid != keyid:
            raise ValueError("the two halves are of two keys")

    return told(check)


PLACE = Command(
    name="place",
    title="piece: a folder in place of another",
    prepare=prepare_folder,
    run=lambda _, world: run_by(place, world),
    units=("out",),
)
PLACE_BY_RENAMES = replace(
    PLACE,
    name="place-without-exchange",
    title="piece: a folder in place of another, without an exchange",
    run=lambda _, world: run_by(place_without_exchange, world),
    halfway=put_away,
)
WRITE = Command(
    name="write",
    title="piece: files that replace others, and new ones",
    prepare=prepare_files,
    run=lambda _, world: run_by(write, world),
    units=("file", "record", "below", "made", "only"),
)
PIECES = (
    PLACE,
    PLACE_BY_RENAMES,
    replace(PLACE, name="place-new", title="piece: a new folder", prepare=prepare_none),
    replace(
        PLACE_BY_RENAMES,
        name="place-new-without-exchange",
        title="piece: a new folder, without an exchange",
        prepare=prepare_none,
    ),
    WRITE,
    Command(
        name="schemas",
        title="piece: schemas",
        prepare=prepare_schemas,
        run=lambda _, world: run_by(schemas.write, world),
        units=(*SCHEMAS, GONE),
    ),
    Command(
        name="keygen",
        title="piece: a key",
        prepare=prepare_none,
        run=lambda _, world: run_by(make_keys, world),
        units=("key", "key.pub"),
        varying=r"key(\.pub)?",
        check=check_keys,
    ),
)
