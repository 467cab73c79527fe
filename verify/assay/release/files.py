"""What lies in a release folder: regular files, each once, with names that all systems agree on.

A name that one system reads as another file than the next, or a file that is not its own bytes
(a link, a pipe), could show a checker other bytes than an engine.
"""

import os
import stat
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from forge.core import placing
from forge.core.errors import ReleaseError
from forge.core.files import pour
from forge.manifest.names import PROVENANCE
from forge.tensors.tensor_list import Arriving

# tensors.jsonl of the largest checkpoints has some 30 MB.
MOST_PROVENANCE = 1 << 28
# How often a folder is read that is replaced meanwhile, which takes a moment each time.
TIMES = 5
KINDS = {
    stat.S_IFLNK: "a symbolic link", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFDIR: "a folder",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A file: its digest, and of those in `provenance/` the bytes that were hashed.

    Of a file with tensors, `tensors` has their digests, taken of the same bytes.
    """

    sha256: str
    data: bytes = b""
    tensors: Arriving | None = None


def read_folder(folder: Path) -> dict[str, Stored]:
    """Every file of a folder by its relative path; each is read once.

    Where another folder is put in its place meanwhile, that one is read.

    Raises:
        ReleaseError: there is something that is no regular file, that has another name, an empty
            folder, or a name that is not portable; the message names it.
    """
    for _ in range(TIMES):
        before = _identity(folder)
        try:
            found = _read_folder(folder)
        except (ReleaseError, FileNotFoundError):
            if before == _identity(folder):
                raise
            continue
        if before == _identity(folder):
            return found
    raise ReleaseError(f"{folder}: is replaced again and again while it is read.")


def _identity(folder: Path) -> tuple[int, int]:
    if not folder.is_dir():
        raise ReleaseError(f"{folder}: there is no such folder.")
    status = folder.stat()
    return status.st_dev, status.st_ino


def _read_folder(folder: Path) -> dict[str, Stored]:
    found: dict[str, Stored] = {}
    for path, folders, names in os.walk(folder, onerror=_raise):
        inside = Path(path).relative_to(folder)
        if not folders and not names:
            raise ReleaseError(f"{str(inside)!r}: is an empty folder; a release has none.")
        for name in folders:
            _require_kind(inside / name, os.lstat(Path(path, name)).st_mode, stat.S_IFDIR)
        for name in names:
            check_name((inside / name).as_posix())
            found[(inside / name).as_posix()] = _read(folder, inside / name)
    check_twins(found)
    return dict(sorted(found.items()))


def check_name(name: str) -> None:
    """Refuses a path that is not portable.

    Raises:
        ReleaseError: it is absolute, climbs, has an empty part, a control character, a backslash,
            bytes that are no UTF-8, or is not in Unicode's composed form (NFC).
    """
    why = None
    if name.startswith("/") or any(part in {"", ".", ".."} for part in name.split("/")):
        why = "is no relative path that stays inside its folder"
    elif "\\" in name:
        why = "has a backslash, which is a separator elsewhere"
    elif any(unicodedata.category(character) in {"Cc", "Cs"} for character in name):
        why = "has a control character, or bytes that are no UTF-8"
    elif unicodedata.normalize("NFC", name) != name:
        why = "is not in Unicode's composed form (NFC)"
    if why is not None:
        raise ReleaseError(f"{name!r}: this name {why}.")


def check_twins(names: Iterable[str]) -> None:
    """Refuses names, of files or of the folders that they lie in, that some systems take for one.

    Raises:
        ReleaseError: two of them differ only in case.
    """
    seen: dict[str, str] = {}
    for name in names:
        parts = name.split("/")
        for count in range(1, len(parts) + 1):
            prefix = "/".join(parts[:count])
            folded = unicodedata.normalize("NFC", prefix.casefold())
            if seen.setdefault(folded, prefix) != prefix:
                raise ReleaseError(
                    f"{prefix!r}: differs from {seen[folded]!r} only in case, so they are one "
                    "file on some systems."
                )


def _read(folder: Path, name: Path) -> Stored:
    path = folder / name
    try:
        # Neither follows a link nor waits for the writer of a pipe.
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        _require_kind(name, os.lstat(path).st_mode, stat.S_IFREG)
        raise ReleaseError(f"{str(name)!r}: cannot be read ({error.strerror}).") from error
    with os.fdopen(file, "rb", buffering=0) as opened:
        status = os.fstat(opened.fileno())
        _require_kind(name, status.st_mode, stat.S_IFREG)
        names = status.st_nlink
        if names > 1 and (names := placing.names_of(folder, name, opened.fileno())) > 1:
            raise ReleaseError(
                f"{str(name)!r}: is a hard link: its bytes have {names} names, and can "
                "be changed by way of another.",
                remedy="hard-link",
            )
        digest = sha256()
        kept: list[bytes] = []
        tensors: Arriving | None = None
        keep = name.parts[0] == PROVENANCE
        if keep and status.st_size > MOST_PROVENANCE:
            raise ReleaseError(f"{str(name)!r}: has {status.st_size} bytes, too many to be read.")
        if keep:
            pour(opened, digest.update, kept.append)
        elif name.suffix == ".safetensors":
            tensors = Arriving(path, status.st_size)
            pour(opened, digest.update, tensors.update)
        else:
            pour(opened, digest.update)
    return Stored(sha256=digest.hexdigest(), data=b"".join(kept), tensors=tensors)


def _require_kind(name: Path, mode: int, kind: int) -> None:
    if stat.S_IFMT(mode) != kind:
        what = KINDS.get(stat.S_IFMT(mode), "of another kind")
        raise ReleaseError(f"{str(name)!r}: is {what}; a release has regular files only.")


def _raise(error: OSError) -> None:
    raise ReleaseError(f"{error.filename}: cannot be read ({error.strerror}).") from error
