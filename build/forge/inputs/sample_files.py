"""Calibration samples as fetch leaves them and calibrate takes them.

A row is one line of JSON: `{"messages": [{"role": ..., "content": ...}, ...]}`. Content is
text, or a list of parts `{"type": "text", "text": ...}` and `{"type": "image", "image": <path>}`;
the path is relative to the lines' file, and named by the picture's sha256. In a set's
`samples.jsonl` each row is a sample. Instead of that a set has `rows.jsonl` where calibration
joins rows into samples, since only a tokenizer tells how many fill one.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from forge.core import canonical

FILE = "samples.jsonl"
ROWS = "rows.jsonl"

Message = dict[str, Any]
Sample = list[Message]


def write(samples: Iterable[Sample], path: Path) -> None:
    """Writes the samples' lines into a file, in a folder of their own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [canonical.dumps({"messages": sample}) + "\n" for sample in samples]
    path.write_text("".join(lines), encoding="utf-8")
