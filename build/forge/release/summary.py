"""The table at the end: what was built, how large, how good, where it lies."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from forge.core import canonical
from forge.release.attest import STATEMENT, VERIFICATION


def show(release: Path) -> None:
    """Prints one table about a finished folder, from its own provenance alone."""
    statement = canonical.read(release / "provenance" / STATEMENT)
    verification = canonical.read(release / "provenance" / VERIFICATION)
    predicate = statement["predicate"]
    asked = predicate["buildDefinition"]["externalParameters"]
    table = Table(title=asked["target"], show_header=False)
    table.add_row("made from", asked["source"])
    table.add_row("builder", predicate["runDetails"]["builder"]["id"])
    rows = [*_sizes(release, predicate["buildDefinition"]), *_figures(verification)]
    for label, value in rows:
        table.add_row(label, value)
    table.add_row("lies in", str(release))
    Console(width=120).print(table)


def _sizes(release: Path, definition: dict[str, Any]) -> list[tuple[str, str]]:
    before = sum(
        entry["annotations"]["bytes"]
        for entry in definition["resolvedDependencies"]
        if entry["name"].startswith("base/") and entry["name"].endswith(".safetensors")
    )
    after = sum(path.stat().st_size for path in release.glob("*.safetensors"))
    return [
        ("weights of the base", size(before)),
        ("weights of the result", f"{size(after)} ({after / before:.1%})"),
    ]


def size(count: int) -> str:
    """Bytes in words."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.2f} MB"


def _figures(verification: dict[str, Any]) -> list[tuple[str, str]]:
    checks = {check["name"]: check for check in verification["checks"]}
    rows = []
    if "perplexity" in checks:
        found = checks["perplexity"]["measured"]
        rows += [
            ("perplexity scored on", f"{found['text']}, {found['windows']} windows"),
            ("perplexity of the base", f"{found['base']:.4f}"),
            ("perplexity of the result", f"{found['result']:.4f} (x {found['ratio']:.4f})"),
        ]
    if "smoke.mtp" in checks:
        for position, rate in enumerate(checks["smoke.mtp"]["measured"]["acceptance"], start=1):
            rows.append((f"MTP acceptance, position {position}", f"{rate:.1%}"))
    good = sum(check["passed"] for check in checks.values())
    rows.append(("verified", f"{verification['level']}, {good} of {len(checks)} checks passed"))
    return rows
