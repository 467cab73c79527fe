"""Reads and writes documents as files."""

from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from forge.core import filesystem
from forge.core.errors import ManifestError
from forge.core.model import Model, mistake

MOST = 1 << 28  # bytes; a list of the inputs has one line for each picture of a data set
Parsed = TypeVar("Parsed", bound=Model)


class FormerError(ValueError):
    """A document is of a form that is no longer read; the message says what to do about it."""


def write(path: Path, document: Model) -> None:
    """Writes a document in canonical JSON, with a final newline."""
    path.write_bytes(document.encoded())


def read(model: type[Parsed], path: Path) -> Parsed:
    """The document of a file.

    Raises:
        ManifestError: the file cannot be read, or is not of the form `model`.
    """
    try:
        data = filesystem.read_some(path, MOST)
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read: {error}. Fetch the release again.") from error
    return parse(model, data, str(path))


def parse(model: type[Parsed], data: bytes, where: str) -> Parsed:
    """A document of the form `model`; `where` names it in messages.

    Raises:
        ManifestError: it is not of that form, or not JSON that all readers agree on.
    """
    try:
        return model.parse(data)
    except FormerError as error:
        raise ManifestError(f"{where}: {error}") from error
    except ValidationError as error:
        raise ManifestError(
            f"{where}: no {model.__name__.lower()} of Hallmark, {error.error_count()} mistake(s), "
            f"first {mistake(error)}. Fetch the release again."
        ) from error
    except ValueError as error:
        raise ManifestError(
            f"{where}: cannot be read: {error}. Fetch the release again."
        ) from error
