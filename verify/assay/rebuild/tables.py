"""Comparisons as tables: on a terminal and in a pipe the same words, in a pipe without colours."""

from collections.abc import Iterable, Sequence

from rich.table import Table
from rich.text import Text

from assay.rebuild.compare import Comparison
from assay.rebuild.difference import Difference
from forge.core.console import Plain
from forge.core.portable import shown
from forge.core.sizes import size

# A wrong base makes every tensor differ; the first of them tell as much as all.
ROWS = 40
PIPE_WIDTH = 200


def say(line: str) -> None:
    """Prints one line of a result."""
    _console().print(line, markup=False, soft_wrap=True)


def show(comparison: Comparison) -> None:
    """Prints what is not identical: the files, then the tensors."""
    files = [
        (file.path, file.verdict, file.detail)
        for file in comparison.files
        if file.verdict != "identical"
    ]
    table(("file", "verdict", "because"), files)
    table(
        ("tensor", "kind", "file", "differs", "at most", "relative"),
        [_row(tensor) for tensor in comparison.tensors],
    )


def table(titles: Iterable[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints rows under their titles, the first of them if they are many, nothing for none."""
    if not rows:
        return
    printed = Table(*titles)
    for row in rows[:ROWS]:
        # Names come out of files that may be hostile: they are text, never markup. Escaped here,
        # they are as wide as they will be shown.
        printed.add_row(*(Text(shown(cell), overflow="fold") for cell in row))
    _console().print(printed)
    if len(rows) > ROWS:
        say(f"... and {len(rows) - ROWS} more")


def counts(comparison: Comparison) -> str:
    """How much differs, in one phrase."""
    files = sum(file.verdict != "identical" for file in comparison.files)
    kinds = sorted({tensor.kind for tensor in comparison.tensors})
    of_kinds = ", ".join(
        f"{sum(tensor.kind == kind for tensor in comparison.tensors)} x {kind}" for kind in kinds
    )
    return (
        f"{files} of {len(comparison.files)} files and {len(comparison.tensors)} of "
        f"{comparison.compared} tensors differ" + (f" ({of_kinds})" if of_kinds else "")
    )


def extent(comparison: Comparison, total: int) -> str:
    """How much was compared, `total` being its bytes."""
    return f"{len(comparison.files)} files, {comparison.compared} tensors, {size(total)}"


def _row(tensor: Difference) -> tuple[str, ...]:
    return (
        tensor.name,
        tensor.kind,
        tensor.file,
        _what(tensor),
        "" if tensor.largest is None else f"{tensor.largest} {tensor.unit}",
        "" if tensor.relative is None else f"{tensor.relative:.2e}",
    )


def _what(tensor: Difference) -> str:
    if tensor.fault == "values" and tensor.elements is not None:
        return f"{tensor.elements} of {tensor.total} elements"
    if tensor.fault == "values":
        return "sha256"
    if tensor.fault == "form":
        return f"{tensor.before}, then {tensor.after}"
    return tensor.fault


def _console() -> Plain:
    console = Plain()
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    return console
