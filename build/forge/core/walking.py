"""Walks a folder. A folder in it that may not be read is an error.

`Path.rglob` and `Path.glob` treat such a folder as empty, so files would be left out of what is
published or hashed.
"""

import os
from collections.abc import Iterator
from pathlib import Path


def below(folder: Path) -> Iterator[Path]:
    """All that lies below a folder, sorted in each; links are not followed.

    Raises:
        OSError: a folder cannot be read.
    """
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        yield folder / entry.name
        if entry.is_dir(follow_symlinks=False):
            yield from below(folder / entry.name)


def files_below(folder: Path) -> list[str]:
    """The files below a folder by relative POSIX path, sorted; links to files are among them.

    Raises:
        OSError: a folder cannot be read.
    """
    return sorted(path.relative_to(folder).as_posix() for path in below(folder) if path.is_file())
