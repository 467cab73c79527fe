"""`SHA256SUMS`: a line a file, as sha256sum writes it; read strictly."""

import re
from collections.abc import Mapping
from pathlib import Path

from forge.core.errors import ManifestError

_SUMS_LINE = re.compile(r"([0-9a-f]{64})  (.+)")


def lines(digests: Mapping[str, str]) -> str:
    """A line a file, sorted by path."""
    return "".join(f"{digest}  {path}\n" for path, digest in sorted(digests.items()))


def write(path: Path, digests: Mapping[str, str]) -> None:
    """Writes the lines."""
    path.write_text(lines(digests), encoding="utf-8")


def read(path: Path) -> dict[str, str]:
    """The digests of a `SHA256SUMS` by file.

    Raises:
        ManifestError: a line is not a sha256, two spaces and a path, or a path stands twice.
    """
    digests: dict[str, str] = {}
    for number, line in enumerate(text(path).splitlines(), start=1):
        match = _SUMS_LINE.fullmatch(line)
        if match is None or match[2] in digests:
            raise ManifestError(
                f"{path}, line {number}: {line!r} is not a sha256, two spaces and a path that no "
                "other line has. Fetch the release again."
            )
        digests[match[2]] = match[1]
    return digests


def text(path: Path) -> str:
    """A file of the provenance.

    Raises:
        ManifestError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ManifestError(f"{path}: cannot be read: {error}. Fetch the release again.") from error
