"""A stored result: the files that a step left, and the record of what went into them.

A result is a folder with `files/`, `record.json` and the lock file `used`. The record has the
SHA-256, size and stamp (size and modification time) of every file. A file with its recorded stamp
is not hashed again.
"""

import errno
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from forge.core import canonical, filesystem, locks, system_errors, walking
from forge.core.errors import StoreError
from forge.core.model import Maybe, Model, RelativePath, Sha256, Timestamp, mistake

RECORD = "record.json"
FILES = "files"
# Held by all who use the result; its time is that of the last use.
USED = "used"
SHORT = 12  # characters of a key that stand for it where people read it
MOST = 1 << 24  # bytes of a record, which has some 200 for each file
# Errors that show that a stored file is missing, is not a file, or cannot be read off the disk.
# Other errors may pass, and say nothing about the file.
NO_FILE = filesystem.NO_FILE | {
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EIO,
}  # fmt: skip
# A record is also not one if it is too large.
_NO_RECORD = NO_FILE | {errno.EFBIG}


class Output(Model):
    """A file that a step left."""

    sha256: Sha256
    bytes: int
    stamp: str = Field(
        description="Size and modification time in ns: while they are these, it is not read again."
    )


class Record(Model):
    """`record.json`: what went into a result, when it was made, and the files that it has.

    The first five are the facts that its key is made of. A result that no step made, such as a
    calibration record that is taken over from a release, has none of them.
    """

    parameters: dict[str, Any] = Field(
        default_factory=dict, description="What decides the outcome besides the inputs."
    )
    needs: dict[str, dict[str, Sha256]] = Field(
        default_factory=dict, description="What was read: SHA-256 by step and path."
    )
    code: Maybe[Sha256] = Field(
        default=None, description="The SHA-256 of the modules that the step can reach."
    )
    distributions: dict[str, str] = Field(
        default_factory=dict, description="The versions of what those modules import, by name."
    )
    system: dict[str, str | None] = Field(
        default_factory=dict,
        description="Interpreter, processor and image; null where nothing pins it.",
    )
    step: str
    key: str = Field(description="The SHA-256 of the step's name and all of these facts.")
    started: Timestamp
    finished: Timestamp
    seconds: float
    outputs: dict[RelativePath, Output] = Field(description="What was written, by path.")


# The files that a result must have, by its record.
Leaves = Callable[[Record], Iterable[str]]


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a step left: its folder of files and their digests by relative path.

    While `use` is there, nobody removes the result as unused. `checked` says that all of its bytes
    were hashed since this build began, on writing or again; of others, sizes and times vouch.
    """

    step: str
    key: str
    files: Path
    digests: Mapping[str, str]
    record: Record
    use: locks.Shared | None = field(default=None, repr=False, compare=False)
    checked: bool = False

    def below(self, paths: tuple[str, ...] = ("",)) -> dict[Path, str]:
        """The digests of the files whose relative path begins with one of these, by their path."""
        return {
            self.files / path: digest
            for path, digest in self.digests.items()
            if path.startswith(paths)
        }


def result_of(folder: Path, record: Record, use: locks.Shared) -> Result:
    """The result in a folder, as its record has it; nothing of it is looked at."""
    return Result(
        step=record.step,
        key=record.key,
        files=folder / FILES,
        digests={path: output.sha256 for path, output in record.outputs.items()},
        record=record,
        use=use,
    )


def record_of(folder: Path) -> Record | None:
    """The record of a result, or None if it is missing or not valid.

    Raises:
        StoreError: the system does not let it be read, which says nothing of the record.
    """
    try:
        return read_record(folder / RECORD)
    except ValueError:
        return None


def read_record(path: Path) -> Record:
    """The record in a file.

    Raises:
        ValueError: it is not a valid record.
        StoreError: the system does not let it be read, which says nothing about the record.
    """
    try:
        return Record.parse(filesystem.read(path, MOST))
    except ValidationError as error:
        raise ValueError(mistake(error)) from error
    except OSError as error:
        if error.errno in _NO_RECORD:
            raise ValueError(error.strerror) from error
        raise StoreError(f"a record cannot be read: {system_errors.told(error)}.") from error


def unlike(folder: Path, record: Record, leaves: Iterable[str]) -> str | None:
    """What shows that a record does not list what its result has, if anything does.

    Args:
        folder: the result's.
        record: its record.
        leaves: the files that it must have.

    Raises:
        OSError: the system does not let a folder of it be read, which says nothing of the result.
    """
    if lacking := sorted(set(leaves) - record.outputs.keys()):
        return f"{folder / RECORD}: does not list {lacking[0]}, which its step leaves"
    files = folder / FILES
    try:
        for path in walking.below(files):
            is_folder = path.is_dir() and not path.is_symlink()
            if not is_folder and path.relative_to(files).as_posix() not in record.outputs:
                return f"{path}: is not in the record of the result that it lies in"
    except OSError as error:
        if error.errno not in NO_FILE:
            raise
        return f"{error.filename}: {error.strerror}"
    return None


def moved_outputs(files: Path, record: Record) -> dict[str, Output] | None:
    """The outputs whose size or time is another, as they are now; None if the bytes are others.

    Raises:
        OSError: a file cannot be looked at or read.
    """
    moved = {}
    for path, output in record.outputs.items():
        file = files / path
        now = stamp(file)
        if now == output.stamp:
            continue
        if now is None or not file.is_file() or not now.startswith(f"{output.bytes}:"):
            return None
        if canonical.sha256_file(file) != output.sha256:
            return None
        moved[path] = output.model_copy(update={"stamp": now})
    return moved


def output_of(file: Path, sha256: str | None) -> Output:
    """What the record says of a file; it is hashed, unless its digest is known."""
    stat = file.stat()
    return Output(
        sha256=sha256 or canonical.sha256_file(file), bytes=stat.st_size, stamp=_stamp(stat)
    )


def stamp(path: Path) -> str | None:
    """Size and modification time, or None if it is not there; follows links to the bytes.

    Raises:
        OSError: the system does not tell, which says nothing of the file.
    """
    try:
        stat = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return _stamp(stat)


def _stamp(stat: os.stat_result) -> str:
    return f"{stat.st_size}:{stat.st_mtime_ns}"
