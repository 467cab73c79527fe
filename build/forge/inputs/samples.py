"""Reads calibration samples from the files of a data set into the form of `sample_files`."""

import json
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from forge.core.errors import FetchError
from forge.core.libraries import library
from forge.inputs.sample_files import Sample

if TYPE_CHECKING:
    from forge.recipes.recipe import CalibrationSet

PICTURES = "images"
PICTURE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp"})
MAX_PICTURE_BYTES = 64 << 20


def read_text(path: Path, wanted: "CalibrationSet") -> list[Sample]:
    """The rows of a parquet file's column that the set can take: messages, or a user's words.

    Raises:
        FetchError: the file has no such column, or a row is neither.
    """
    rows = column(path, wanted.column, wanted.most_rows)
    return [_messages(row, f"{path}, row {number}") for number, row in enumerate(rows)]


def read_pictures(lines: Path, media: Sequence[Path], count: int, folder: Path) -> list[Sample]:
    """The first samples of a JSONL file; their pictures are copied out of tar files to `folder`.

    The tar files are read as streams, and of them only regular files that a sample names.

    Raises:
        FetchError: a line is no sample, has a part that is neither text nor picture, or names a
            picture that no tar file has.
    """
    with lines.open("rb") as file:
        samples = [
            _messages(_parse(line, f"{lines}, line {number}"), f"{lines}, line {number}")
            for number, line in enumerate(islice(file, count), start=1)
        ]
    named = {part["image"]: number for number, part in _pictures(samples)}
    if silent := set(range(1, len(samples) + 1)) - {number for number, _ in _pictures(samples)}:
        raise FetchError(f"{lines}, line {min(silent)}: the sample has no picture.")
    paths: dict[str, str] = {}
    for archive in media:
        paths |= _copy_pictures(archive, named.keys() - paths.keys(), folder)
    if missing := sorted(named.keys() - paths.keys()):
        raise FetchError(
            f"{lines}, line {named[missing[0]]}: names the picture {missing[0]!r}, which none of "
            f"{len(media)} tar file(s) has ({len(missing)} missing). Widen the set's `media`."
        )
    for _, part in _pictures(samples):
        part["image"] = paths[part["image"]]
    return samples


def column(path: Path, name: str, limit: int | None = None) -> list[Any]:
    """The first `limit` values of a parquet file's column, or all.

    Raises:
        FetchError: the file is no parquet file, or has no such column.
    """
    from pyarrow import parquet

    rows: list[Any] = []
    with (
        library("pyarrow", FetchError, f"{path}: no readable parquet file"),
        parquet.ParquetFile(path) as table,
    ):
        names = table.schema_arrow.names
        if name not in names:
            raise FetchError(f"{path}: has the columns {names}, none is {name!r}.")
        for batch in table.iter_batches(batch_size=min(limit or 1024, 1024), columns=[name]):
            rows += batch.column(0).to_pylist()
            if limit is not None and len(rows) >= limit:
                break
    return rows[:limit]


def _parse(line: bytes, where: str) -> object:
    try:
        return json.loads(line.decode("utf-8"))["messages"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise FetchError(f"{where}: is no JSON object with messages: {error}.") from error


def _messages(row: object, where: str) -> Sample:
    if isinstance(row, str) and row:
        return [{"role": "user", "content": row}]
    rows = row if isinstance(row, list) else []
    messages = [
        {"role": item["role"], "content": _content(item.get("content"), where)}
        for item in rows
        if isinstance(item, Mapping) and isinstance(item.get("role"), str)
    ]
    if not messages or len(messages) < len(rows):
        raise FetchError(
            f"{where}: is neither text nor a list of messages with a role and a content. Correct "
            "the calibration set's column or file in the recipe."
        )
    return messages


def _content(content: object, where: str) -> str | list[dict[str, str]]:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    known = [
        {"type": kind, kind: part[kind]}
        for part in parts
        if isinstance(part, Mapping)
        and (kind := part.get("type")) in {"text", "image"}
        and isinstance(part.get(kind), str)
    ]
    if not known or len(known) < len(parts):
        raise FetchError(
            f"{where}: has a content that is neither text nor a list of text and pictures; "
            "sound and film cannot be calibrated with."
        )
    return known


def _pictures(samples: Iterable[Sample]) -> Iterator[tuple[int, dict[str, str]]]:
    """The parts that are pictures, each with the number of its sample, from 1."""
    for number, sample in enumerate(samples, start=1):
        for message in sample:
            if isinstance(message["content"], list):
                yield from (
                    (number, part) for part in message["content"] if part["type"] == "image"
                )


def _copy_pictures(archive: Path, wanted: Iterable[str], folder: Path) -> dict[str, str]:
    """Copies members of a tar file; their new paths, relative to `folder`, by their old names."""
    wanted, paths = set(wanted), {}
    with (
        library("tarfile", FetchError, f"{archive}: no readable tar file"),
        tarfile.open(archive, "r|*") as members,
    ):
        for member in members:
            if not wanted:
                break
            data = members.extractfile(member) if member.isreg() else None
            if member.name not in wanted or data is None:
                continue
            suffix = PurePosixPath(member.name).suffix.lower()
            if member.size > MAX_PICTURE_BYTES or suffix not in PICTURE_SUFFIXES:
                raise FetchError(
                    f"{archive}: {member.name!r} of {member.size} bytes is no picture of "
                    f"{', '.join(sorted(PICTURE_SUFFIXES))} up to {MAX_PICTURE_BYTES} bytes."
                )
            picture = data.read()
            path = f"{PICTURES}/{sha256(picture).hexdigest()}{suffix}"
            (folder / PICTURES).mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(picture)
            paths[member.name] = path
            wanted.discard(member.name)
    return paths
