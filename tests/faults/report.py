"""What was tried and what came of it: a row a command, and a file of all rows."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

# Counts that must be zero.
BAD = ("lost", "wedged", "tracebacks", "leftovers", "untold")
COLUMNS = ("operations", "reads", "unreadable", "requests", "trials")
SHOWN = 12  # findings that are printed of a row; the file has all


@dataclass(kw_only=True)
class Row:
    """One thing that was tried: its counts, and a line for each finding."""

    part: str
    name: str
    title: str = ""  # what the pages call it
    counts: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def is_good(self) -> bool:
        return not any(self.counts[name] for name in BAD) and self.counts["trials"] > 0

    def as_json(self) -> dict[str, object]:
        counts = {name: self.counts[name] for name in (*self.counts, *BAD)}
        return {
            "part": self.part,
            "command": self.name,
            "good": self.is_good,
            **counts,
            "seconds": round(self.seconds, 1),
            "findings": sorted(self.findings),
        }


def write(path: Path, rows: Sequence[Row]) -> None:
    """Writes the file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    text = json.dumps([row.as_json() for row in rows], indent=2) + "\n"
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(path)


def show(row: Row) -> None:
    """Prints a row."""
    counts = ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in row.counts.items())
    verdict = "pass" if row.is_good else "FAIL"
    lines = [f"{verdict}  {row.part} {row.name}: {counts}, {row.seconds:.0f} s"]
    lines += [f"      {line}" for line in sorted(row.findings)[:SHOWN]]
    if (more := len(row.findings) - SHOWN) > 0:
        lines.append(f"      and {more} more")
    print("\n".join(lines), flush=True)  # noqa: T201


def table(rows: Sequence[Row]) -> str:
    """The commands that were tried and how often, as docs/faults.md has them."""
    lines = [
        "| command | calls that change a file | that read one | unreadable files | requests "
        "| trials |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        counts = (row.counts[name] for name in COLUMNS)
        cells = [row.title, *(f"{count:,}" if count else "" for count in counts)]
        lines.append("|" + "|".join(f" {cell} " if cell else " " for cell in cells) + "|")
    return "\n".join(lines)


def rounds(rows: Sequence[Row]) -> str:
    """What came of the rounds of neighbours, as docs/store.md has it."""
    told = {name: sum(row.counts[name] for row in rows) for name in ("same", "refused", "wrong")}
    minutes = sum(row.seconds for row in rows) / 60
    return (
        f"{sum(row.counts['trials'] for row in rows):,} rounds took {minutes:.0f} minutes: "
        f"{told['same']:,} with the same bytes, {told['refused']:,} with a refusal, "
        f"{told['wrong'] or 'none'} with anything else."
    )
