"""A folder from a stranger: every file is opened once, under limits, and read from its descriptor.

Everything in it must be a regular file with a portable name. Only the links of a hub's cache are
followed. No file is opened that could block, such as a pipe. A file that is put in the place of an
open one is not read, and a file that changes while it is read is an error.
"""

import errno
import os
import re
import resource
import stat
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from forge.core import files, placing
from forge.core.errors import ReleaseError
from forge.core.files import Feed
from forge.core.portable import check_name, check_twins, quoted

MOST_FILES = 2000  # the largest checkpoints have some 200
DEEPEST = 8  # folders within folders
# How often a folder is read that is replaced meanwhile, which takes a moment each time.
TIMES = 5
# Beside the files of the folder, a process has some of its own open.
_OWN_FILES = 100
_KINDS = {
    stat.S_IFLNK: "a symbolic link", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFDIR: "a folder",
}  # fmt: skip
# What other tools keep in a folder for themselves, and whose it is.
_PASSED_OVER = {
    ".git": "git's: nothing in it was looked at. Use git in this folder only if you cloned it "
    "yourself, because what is in there can run commands",
    ".cache/huggingface": "the hub client's: nothing in it was looked at",
    "lost+found": "the file system's: nothing in it was looked at",
}
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
# A hub's cache: `<repository>/snapshots/<commit>/<path>` leads to `<repository>/blobs/<etag>`.
_COMMIT = re.compile(r"[0-9a-f]{40}")
_BLOB = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class File:
    """A file that was opened, and what it was then."""

    name: str
    opened: FileIO
    status: os.stat_result

    @property
    def size(self) -> int:
        """Its size in bytes."""
        return self.status.st_size

    @property
    def path(self) -> Path:
        """Leads to this very file while it is open, whatever is put in its place."""
        return Path(f"/proc/self/fd/{self.opened.fileno()}")

    def read(self, most: int) -> bytes:
        """All of its bytes.

        Raises:
            ReleaseError: there are more than `most`, or it changes meanwhile.
        """
        if self.size > most:
            raise ReleaseError(
                f"{quoted(self.name)}: has {self.size} bytes; of such a file, at most {most} are "
                "read."
            )
        pieces: list[bytes] = []
        self.pour(pieces.append)
        return b"".join(pieces)

    def pour(self, first: Feed, *beside: Feed) -> None:
        """Reads all of it once; what is read goes to all, to each on a thread of its own.

        Raises:
            ReleaseError: it changes meanwhile, or the system does not let it be read.
        """
        left = self.size

        def count(chunk: bytes) -> None:
            nonlocal left
            left -= len(chunk)
            if left < 0:  # one that grows would never end
                raise self._changed()
            first(chunk)

        try:
            self.opened.seek(0)
            files.pour(self.opened, count, *beside)
            now = os.fstat(self.opened.fileno())
        except OSError as error:
            raise _unreadable(self.name, error) from error
        if left or _stamp(now) != _stamp(self.status):
            raise self._changed()

    def _changed(self) -> ReleaseError:
        return ReleaseError(
            f"{quoted(self.name)}: changed while it was read. Let nothing write to it, and run "
            "again."
        )


@dataclass(frozen=True, kw_only=True)
class Folder:
    """The files of a folder by relative path, sorted, all of them open; what to tell of others.

    `cached` are those of them that lie in a hub cache's blobs.
    """

    path: Path
    files: Mapping[str, File]
    notes: tuple[str, ...]
    cached: int


@contextmanager
def opened(path: Path) -> Iterator[Folder]:
    """Opens a folder and every file in it.

    Where another folder is put in its place meanwhile, that one is opened.

    Raises:
        ReleaseError: there is something that is no regular file, an empty folder, a name that is
            not portable, or too much of anything; the message names it.
    """
    for _ in range(TIMES):
        with ExitStack() as stack:
            before = _identity(path)
            try:
                found = _open(path, stack)
            except ReleaseError:
                if before == _identity(path):
                    raise
                continue
            if before == _identity(path):
                yield found
                return
    raise ReleaseError(f"{path}: is replaced again and again while it is read.")


def read(path: Path, most: int) -> bytes:
    """The bytes of a single file that a stranger gave; a link to it is followed.

    Raises:
        ReleaseError: it is no regular file, has more than `most` bytes, changes meanwhile, or
            the system does not let it be read.
    """
    name = str(path)
    try:
        descriptor = os.open(path, _FLAGS & ~os.O_NOFOLLOW)
    except (OSError, ValueError) as error:
        raise _unreadable(name, error) from error
    with _file(name, descriptor) as file:
        return File(name=name, opened=file, status=os.fstat(descriptor)).read(most)


def _identity(path: Path) -> tuple[int, int]:
    if not path.is_dir():
        raise ReleaseError(f"{path}: there is no such folder.")
    status = path.stat()
    return status.st_dev, status.st_ino


def _open(path: Path, stack: ExitStack) -> Folder:
    _allow(MOST_FILES + _OWN_FILES)
    reading = _Reading(path, stack)
    reading.walk(None, "", 0)
    check_twins(reading.found)
    return Folder(
        path=path,
        files=dict(sorted(reading.found.items())),
        notes=tuple(reading.told()),
        cached=reading.cached,
    )


def _allow(number: int) -> None:
    """Has this process hold so many files, as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < number:
        most = number if hard == resource.RLIM_INFINITY else min(number, hard)
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


class _Reading:
    """A folder that is being opened."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self._path, self._stack = path, stack
        self._root: int | None = None
        self._blobs: int | None = None
        self._linked: list[str] = []
        self.cached = 0
        self._notes: list[str] = []
        self.found: dict[str, File] = {}

    def told(self) -> Iterator[str]:
        """Notes on the folder for the user, a line each."""
        yield from self._notes
        if self._linked:
            yield (
                f"{len(self._linked)} files, first {quoted(self._linked[0])}, have other names "
                "elsewhere (hard links), and can be changed by way of them after this check"
            )
        if self.cached:
            yield f"{self.cached} files lie in the hub cache's blobs"

    def walk(self, parent: int | None, inside: str, depth: int) -> None:
        """Opens all that lies in a folder within, by its descriptor."""
        try:
            name = str(self._path) if parent is None else inside.rpartition("/")[2]
            flags = _FLAGS | os.O_DIRECTORY
            # The folder itself may be a link.
            flags = flags & ~os.O_NOFOLLOW if parent is None else flags
            descriptor = os.open(name, flags, dir_fd=parent)
        except OSError as error:
            raise _unreadable(inside or str(self._path), error) from error
        try:
            if parent is None:
                self._root = descriptor
            with os.scandir(descriptor) as entries:
                names = []
                for entry in entries:
                    names.append(entry.name)
                    if len(names) + len(self.found) > MOST_FILES:
                        raise ReleaseError(
                            f"{self._path}: has more than {MOST_FILES} files, too many for a "
                            "release."
                        )
            if not names:
                raise ReleaseError(
                    f"{quoted(inside or '.')}: is an empty folder; a release has none."
                )
            for one in sorted(names):
                self._take(descriptor, f"{inside}/{one}" if inside else one, one, depth)
        except OSError as error:
            raise _unreadable(inside or str(self._path), error) from error
        finally:
            os.close(descriptor)

    def _take(self, parent: int, inside: str, name: str, depth: int) -> None:
        try:
            mode = os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
        except OSError as error:
            raise _unreadable(inside, error) from error
        if stat.S_ISDIR(mode):
            if inside in _PASSED_OVER:
                self._notes.append(f"{inside} is {_PASSED_OVER[inside]}")
                return
            check_name(inside)
            if depth == DEEPEST:
                raise ReleaseError(
                    f"{quoted(inside)}: lies more than {DEEPEST} folders deep; a release is flat."
                )
            self.walk(parent, inside, depth + 1)
            return
        check_name(inside)
        if stat.S_ISLNK(mode) and (blob := self._blob(parent, inside, name)) is not None:
            self.cached += 1
            self._keep(inside, blob, self._blobs)
            return
        # A device may act on being opened.
        _require_kind(inside, mode, stat.S_IFREG)
        self._keep(inside, name, parent)

    def _keep(self, inside: str, name: str, parent: int | None) -> None:
        try:
            # Neither follows a link nor waits for the writer of a pipe.
            descriptor = os.open(name, _FLAGS, dir_fd=parent)
        except OSError as error:
            raise _unreadable(inside, error) from error
        file = self._stack.enter_context(_file(inside, descriptor))
        status = os.fstat(descriptor)
        if status.st_nlink > 1 and placing.names_of(self._path, Path(inside), descriptor) > 1:
            self._linked.append(inside)
        self.found[inside] = File(name=inside, opened=file, status=status)

    def _blob(self, parent: int, inside: str, name: str) -> str | None:
        """The name of the blob that a link in a snapshot leads to; None if it is another link."""
        real = Path(os.path.realpath(self._path))
        if real.parent.name != "snapshots" or not _COMMIT.fullmatch(real.name):
            return None
        leads = os.readlink(name, dir_fd=parent)
        blob = leads.rpartition("/")[2]
        if leads != f"{'../' * (2 + inside.count('/'))}blobs/{blob}" or not _BLOB.fullmatch(blob):
            return None
        if self._blobs is None:
            flags = _FLAGS | os.O_DIRECTORY
            try:
                self._blobs = os.open("../../blobs", flags, dir_fd=self._root)
            except OSError as error:
                raise _unreadable(inside, error) from error
            self._stack.callback(os.close, self._blobs)
        return blob


def _file(name: str, descriptor: int) -> FileIO:
    """The file of a descriptor, which is closed if it is no regular file."""
    try:
        _require_kind(name, os.fstat(descriptor).st_mode, stat.S_IFREG)
    except ReleaseError:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb", buffering=0)


def _require_kind(name: str, mode: int, kind: int) -> None:
    if stat.S_IFMT(mode) != kind:
        what = _KINDS.get(stat.S_IFMT(mode), "of another kind")
        raise ReleaseError(f"{quoted(name)}: is {what}; a release has regular files only.")


def _stamp(status: os.stat_result) -> tuple[int, int]:
    """What a write changes. A name that is given or taken changes the rest of the status."""
    return status.st_size, status.st_mtime_ns


def _unreadable(name: str, error: OSError | ValueError) -> ReleaseError:
    if isinstance(error, FileNotFoundError):
        return ReleaseError(f"{quoted(name)}: is not there, or vanished while it was read.")
    why = error.strerror if isinstance(error, OSError) else str(error)
    if isinstance(error, OSError) and error.errno in {errno.EMFILE, errno.ENFILE}:
        why = f"{why}; raise the limit, as with `ulimit -n {MOST_FILES + _OWN_FILES}`"
    return ReleaseError(f"{quoted(name)}: cannot be read ({why}).")
