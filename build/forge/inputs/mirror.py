"""Inputs that lie in folders of this machine: a mirror of the hub, or any checkpoint folder.

A mirror is for builds without a network. It repeats the hub's names:

    <mirror>/<owner>/<name>/<commit>/<path>      a repository's files at that commit
    <mirror>/<owner>/<name>/<commit>/SHA256SUMS  a line for each of them, as sha256sum writes it
    <mirror>/<config>/<split>.txt                or, of a text data set, a split's rows, joined

A repository needs to hold only the files that the recipe takes from it. What SHA256SUMS says is
stated by whoever made the mirror. The template and the joined text are checked by the recipe's own
digests as well.
"""

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from forge.core.errors import FetchError
from forge.core.files import (
    File,
    Origin,
    Watch,
    hash_files,
    names_in,
    select,
    stamps,
    unwatched,
)
from forge.recipes.sources import Dataset, Source

SUMS = "SHA256SUMS"
LOCAL_URI = "local:base"
LOCAL_TITLE = "a local checkpoint"
SUMS_COMMAND = f"find -L . -type f ! -name {SUMS} | sort | xargs sha256sum > {SUMS}"
# A line of sha256sum: digest, a space, a space or `*`, the path.
_SUMS_LINE = re.compile(r"([0-9a-f]{64}) [ *](?:\./)?(.+)")


def repository(
    mirror: Path, source: Source, globs: Sequence[str], also: Sequence[str] = ()
) -> Origin | None:
    """A repository at its commit, or None if the mirror does not have it.

    What a glob of `also` matches is taken, too, where it is there.

    Raises:
        FetchError: the mirror is no folder, the repository's name leads out of it, SHA256SUMS is
            missing or wrong, or a glob takes nothing or a pickle.
    """
    folder = _below(mirror, *source.repo.split("/"), str(source.revision))
    if not folder.is_dir():
        return None
    listed = listing(folder)
    names = select(listed, globs, str(folder), strict=True, also=also)
    paths = {name: folder / name for name in names}
    found = stamps(paths)

    def take(watch: Watch = unwatched) -> dict[str, File]:
        files = hash_files(paths, found, watch)
        for name, file in files.items():
            if file.sha256 != listed[name]:
                raise FetchError(
                    f"{file.path}: has sha256 {file.sha256}, {SUMS} says {listed[name]}. "
                    "Copy it again from where the mirror was made."
                )
        return files

    return Origin(
        kind="mirror",
        uri=source.uri,
        revision=str(source.revision),
        name=title(source),
        key=[source.uri, found, {name: listed[name] for name in names}],
        take=take,
        folder=folder,
    )


def joined_text(mirror: Path, source: Dataset) -> Origin | None:
    """A split's rows as one text, or None if the mirror does not have it.

    Raises:
        FetchError: the mirror is no folder, or the split's name leads out of it.
    """
    file = _below(mirror, source.config, f"{source.split}.txt")
    if not file.is_file():
        return None
    paths = {f"{source.config}/{file.name}": file}
    found = stamps(paths)
    return Origin(
        kind="mirror",
        uri=source.uri,
        revision=str(source.revision),
        name=title(source),
        key=[source.uri, found],
        take=partial(hash_files, paths, found),
        joined=True,
    )


def local(folder: Path, globs: Sequence[str]) -> Origin:
    """A checkpoint folder that nobody vouches for: the files that are there, as they are now.

    Raises:
        FetchError: a glob takes a pickle, or all take nothing.
        OSError: it is no folder, or the system does not let it be read.
    """
    names = select(names_in(folder), globs, str(folder), strict=False)
    if not names:
        raise FetchError(f"{folder}: holds none of the files {list(globs)}.", remedy="wrong-base")
    paths = {name: folder / name for name in names}
    found = stamps(paths)
    return Origin(
        kind="local",
        uri=LOCAL_URI,
        revision=None,
        name=LOCAL_TITLE,
        key=found,
        take=partial(hash_files, paths, found),
        folder=folder,
    )


def title(source: Source) -> str:
    """What people call a source: the data set's split, or the repository."""
    return f"{source.config} {source.split}" if isinstance(source, Dataset) else source.repo


def listing(folder: Path) -> dict[str, str]:
    """The digests that a repository's SHA256SUMS gives, by path; it lists every file there is.

    Raises:
        FetchError: there is no SHA256SUMS, it is malformed, or it and the folder disagree.
    """
    sums = folder / SUMS
    make = f"Make it with `(cd {folder} && {SUMS_COMMAND})` from a copy that you trust."
    if not sums.is_file():
        raise FetchError(f"{folder}: has no {SUMS}, so nothing vouches for its files. {make}")
    listed: dict[str, str] = {}
    # Names are bytes to the system, so they are read as Python reads a folder's.
    lines = sums.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    for number, line in enumerate(lines, start=1):
        match = _SUMS_LINE.fullmatch(line)
        if match is None or match[2].startswith("/") or ".." in match[2].split("/"):
            raise FetchError(
                f"{sums}, line {number}: {line!r} is not a sha256, two spaces and a path that "
                f"stays inside the folder. {make}"
            )
        listed[match[2]] = match[1]
    present = set(names_in(folder)) - {SUMS}
    if differ := sorted(present ^ listed.keys()):
        fault = "is not listed in" if differ[0] in present else "is missing, but listed in"
        raise FetchError(f"{folder / differ[0]}: {fault} {SUMS}. {make}")
    return listed


def _below(mirror: Path, *parts: str) -> Path:
    if not mirror.is_dir():
        raise FetchError(f"the mirror {mirror} is no folder.", remedy="no-mirror")
    for part in parts:
        if part in {"", ".", ".."} or "/" in part:
            raise FetchError(
                f"the mirror {mirror} cannot hold {'/'.join(parts)!r}: {part!r} is not a valid "
                "name of a file or folder. Correct the recipe."
            )
    return mirror.joinpath(*parts)
