"""Canonical JSON and digests: one spelling for everything that is hashed or published."""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

from forge.core.boundary import naming


def dumps(value: Any) -> str:
    """JSON with sorted keys, no spaces, UTF-8 as is; NaN and infinities are refused."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def write(path: Path, value: Any) -> None:
    """Writes canonical JSON and a final newline."""
    path.write_text(dumps(value) + "\n", encoding="utf-8")


def sha256_text(text: str) -> str:
    """SHA-256 of a text's UTF-8 bytes, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex, read in bounded memory.

    Raises:
        OSError: the system does not let the file be read; it names the file.
    """
    with naming(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read(path: Path) -> Any:
    """Reads a JSON file, as `loads` does.

    Raises:
        ValueError: as `loads`.
    """
    with naming(path):
        return loads(path.read_bytes())


def loads(data: bytes) -> Any:
    """The value of UTF-8 JSON that all readers agree on.

    Raises:
        ValueError: it is no JSON, nests deeper than a parser reaches, an object has a key twice,
            a number is NaN, infinite or too large for 64 bits of a float, or a text holds half of
            a character.
    """
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=unique,
            parse_constant=_refuse_constant,
            parse_float=_finite,
        )
        if b"\\u" in data:  # a half can be written in no other way
            dumps(value).encode("utf-8")
    except RecursionError as error:
        raise ValueError("it nests too deeply") from error
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise ValueError(f"it holds half of a character (U+{ord(half):04X})") from error
    return value


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text:.20} is no number that JSON has 64 bits for")
    return number


def _refuse_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Makes a dict of JSON pairs; for `object_pairs_hook`.

    Raises:
        ValueError: a key stands twice, so readers could disagree on what the object says.
    """
    seen = dict(pairs)
    if len(seen) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(n for n in names if names.count(n) > 1)!r} stands twice")
    return seen
