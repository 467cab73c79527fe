"""The table at the end of a build: what was built, how large, how good, and where it is."""

from pathlib import Path

from rich.table import Table
from rich.text import Text

from forge.core.console import Plain
from forge.core.sizes import size
from forge.manifest import document, provenance
from forge.manifest.names import PROVENANCE, VERIFICATION
from forge.manifest.provenance import Manifest
from forge.manifest.served_figures import Drafts, Perplexity
from forge.manifest.verification import Report


def show(release: Path) -> None:
    """Prints one table about a finished folder, from its own provenance alone."""
    stated = provenance.read(release / PROVENANCE)
    report = document.read(Report, release / PROVENANCE / VERIFICATION)
    table = Table(title=stated.asked.target, show_header=False)
    table.add_row("made from", stated.asked.source)
    table.add_row("builder", stated.builder)
    rows = [*_sizes(release, stated), *_figures(report)]
    for label, value in rows:
        table.add_row(label, value)
    table.add_row("lies in", Text(str(release), overflow="fold"))  # it may have brackets
    Plain(width=120).print(table)


def _sizes(release: Path, stated: Manifest) -> list[tuple[str, str]]:
    before = stated.base_bytes
    after = sum(path.stat().st_size for path in release.glob("*.safetensors"))
    return [
        ("weights of the base", size(before)),
        ("weights of the result", f"{size(after)} ({after / before:.1%})"),
    ]


def _figures(report: Report) -> list[tuple[str, str]]:
    rows = []
    if scored := report.figures(Perplexity):
        rows += [
            ("perplexity scored on", f"{scored.text}, {scored.windows} windows"),
            ("perplexity of the base", f"{scored.base:.4f}"),
            ("perplexity of the result", f"{scored.result:.4f} (x {scored.ratio:.4f})"),
        ]
    if drafts := report.figures(Drafts):
        for position, rate in enumerate(drafts.acceptance, start=1):
            rows.append((f"MTP acceptance, position {position}", f"{rate:.1%}"))
    good = sum(check.passed for check in report.checks)
    rows.append(("verified", f"{report.level}, {good} of {len(report.checks)} checks passed"))
    return rows
