"""Files of an input: which of them are taken, where they lie, and what their bytes are."""

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Protocol

from forge.core import console, filesystem, walking
from forge.core.boundary import naming
from forge.core.errors import FetchError

# Formats that run code when they are loaded, and code itself.
REFUSED = frozenset({".bin", ".pt", ".pth", ".pkl", ".ckpt", ".py"})
# What a clone without git-lfs has in place of a large file.
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
CHUNK = 1 << 22

# Takes the bytes of a file in their order, beside its digest.
Feed = Callable[[bytes], None]
# Told of a file that is about to be read; what it returns is fed with it.
Watch = Callable[[Path], Feed | None]
Stamps = Sequence[tuple[str, int, int]]
# Where an input comes from: the hub, a mirror folder, the stand-in, or a local checkpoint.
SourceKind = Literal["hub", "mirror", "standin", "local"]


@dataclass(frozen=True, kw_only=True)
class File:
    """A file of an input: where its bytes lie, and what they are."""

    path: Path
    sha256: str
    bytes: int


def unwatched(path: Path) -> None:
    """Feeds nobody."""
    del path


def nothing() -> dict[str, int]:
    """Of an input that lies on this machine, nothing is missing."""
    return {}


class Take(Protocol):
    """Fetches the files of an input and checks them, reading each once."""

    def __call__(self, watch: Watch = unwatched) -> dict[str, File]:
        """The files by path; `watch` is told of each, and fed what is read of it."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where one input comes from, chosen but not fetched yet.

    `key` decides its bytes, as far as that can be known without reading them; `take` fetches the
    files and checks them, by path. `missing` are the files that `take` brings to this machine, by
    address, with their sizes. Without a `revision`, the digest of its files stands for one.
    `joined` says that its one file is a split's text, not a table that holds it. `folder` is where
    its files lie already; the hub's lie nowhere yet.
    """

    kind: SourceKind
    uri: str
    revision: str | None
    name: str
    key: Any
    take: Take
    missing: Callable[[], Mapping[str, int]] = nothing
    joined: bool = False
    folder: Path | None = None


def select(
    names: Iterable[str],
    globs: Sequence[str],
    where: str,
    *,
    strict: bool,
    also: Sequence[str] = (),
) -> list[str]:
    """The names that at least one glob matches, sorted; `*` does not reach into a folder.

    With `strict`, a glob that matches nothing is an error, but for those of `also`.

    Raises:
        FetchError: a glob takes a pickle or code, or (if `strict`) nothing at all.
    """
    names = list(names)
    chosen: set[str] = set()
    for glob in (*globs, *also):
        found = {name for name in names if _matches(name, glob)}
        if strict and not found and glob in globs:
            raise FetchError(f"{where}: has no file {glob!r}; correct the recipe's files or pin.")
        if refused := sorted(n for n in found if PurePosixPath(n).suffix.lower() in REFUSED):
            raise FetchError(
                f"{where}: the recipe's glob {glob!r} takes {refused[0]}; pickles and code are "
                "never fetched, because loading them runs them. Narrow the glob."
            )
        chosen |= found
    return sorted(chosen)


def names_in(folder: Path) -> list[str]:
    """The files under a folder by their relative POSIX path, sorted.

    Raises:
        OSError: it is no folder, or the system does not let one be read.
    """
    return walking.files_below(folder)


def everything_in(folder: Path) -> set[str]:
    """All that lies under a folder and is no folder itself, links included, by relative path.

    Raises:
        OSError: the system does not let a folder be read.
    """
    return {
        path.relative_to(folder).as_posix()
        for path in walking.below(folder)
        if path.is_symlink() or not path.is_dir()
    }


def stamps(paths: Mapping[str, Path]) -> Stamps:
    """Name, size and modification time in ns of every file, sorted, without reading them.

    Raises:
        OSError: the system does not let a file be looked at.
    """
    stats = {name: path.stat() for name, path in sorted(paths.items())}
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()]


def hash_files(
    paths: Mapping[str, Path], expected: Stamps, watch: Watch = unwatched
) -> dict[str, File]:
    """Reads every file once, two at a time (hashlib lets go of the GIL), under a bar.

    `watch` is told of each file, and fed what is read of it.

    Raises:
        FetchError: the stamp of a file is not the expected one before or after.
        OSError: the system does not let a file be read.
    """
    _require_stamps(paths, expected)
    total = sum(size for _, size, _ in expected)
    with console.bytes_bar("hashing", total) as advance, ThreadPoolExecutor(max_workers=2) as pool:
        digests = pool.map(lambda path: sha256_of(path, watch(path), advance), paths.values())
        files = {
            name: File(path=path, sha256=digest, bytes=path.stat().st_size)
            for (name, path), digest in zip(paths.items(), digests, strict=True)
        }
    _require_stamps(paths, expected)
    return files


def sha256_of(
    path: Path, feed: Feed | None = None, advance: Callable[[int], None] | None = None
) -> str:
    """As :func:`forge.core.canonical.sha256_file`, of a regular file; others get the same bytes.

    Args:
        path: the file.
        feed: is given what is read.
        advance: is told how many bytes were read.

    Raises:
        OSError: the system does not let the file be read; it names the file.
    """
    digest = sha256()
    beside: list[Feed] = []
    if feed is not None:
        beside.append(feed)
    if advance is not None:
        beside.append(lambda chunk: advance(len(chunk)))
    with naming(path), filesystem.opened(path) as file:
        pour(file, digest.update, *beside)
    return digest.hexdigest()


def pour(file: io.RawIOBase, first: Feed, *beside: Feed) -> None:
    """Reads a file to its end, once; what is read goes to all, to each on a thread of its own."""
    with ThreadPoolExecutor(max_workers=max(1, len(beside))) as threads:
        while chunk := file.read(CHUNK):
            fed = [threads.submit(feed, chunk) for feed in beside]
            first(chunk)
            for one in fed:
                one.result()


def _require_stamps(paths: Mapping[str, Path], expected: Stamps) -> None:
    for then, now in zip(expected, stamps(paths), strict=True):
        if then != now:
            raise FetchError(
                f"{paths[now[0]]}: changed since this command began ({then[1]} bytes then, "
                f"{now[1]} now). Let nothing write to it, and run again."
            )


def _matches(name: str, glob: str) -> bool:
    # With as many slashes on both sides, none is left for a wildcard to swallow.
    return name.count("/") == glob.count("/") and fnmatchcase(name, glob)
