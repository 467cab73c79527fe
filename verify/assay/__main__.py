"""The command line of the assay; the Makefile calls it through nox."""

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from assay import compare, gate, reproduce, tables
from forge import canonical, console, identity, pipeline, release
from forge.errors import DifferenceError, VerificationError
from forge.store import Store

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.command()
def check(
    folder: Path,
    *,
    base: Annotated[Path | None, typer.Option(help="The local base it was rehearsed on.")] = None,
    mirror: Annotated[Path | None, typer.Option(help="A folder with the inputs.")] = None,
    store: Annotated[
        Path, typer.Option(help="Where the fetched inputs are kept.")
    ] = identity.STORE,
) -> None:
    """Assays a finished folder as it lies there; changes nothing in it."""
    job = release.job(folder, Store(store), base, mirror)
    fetched = pipeline.run(job, "build", until="fetch")["fetch"]
    with tempfile.TemporaryDirectory(prefix="hallmark-assay-") as logs:
        checks = gate.assay(job, folder.resolve(), fetched, Path(logs))
    for one in checks:
        console.say(f"{'pass' if one.passed else 'FAIL'}  {one.name}: {one.detail}")
    print(canonical.dumps(gate.report(job.recipe, job.level, checks)))  # noqa: T201
    if not gate.passed(checks):
        raise VerificationError(f"{folder}: failed the assay.")


@app.command(name="compare")
def compare_folders(
    before: Path,
    after: Path,
    *,
    report: Annotated[Path | None, typer.Option(help="Where the result goes as JSON.")] = None,
) -> None:
    """Compares two checkpoint folders: a verdict a file, a line a differing tensor."""
    found = compare.folders(before, after)
    if report is not None:
        canonical.write(report, found.as_json())
    if not found.identical:
        tables.show(found)
        raise DifferenceError(f"{before} and {after}: {tables.counts(found)}.")
    size = sum((after / file.path).stat().st_size for file in found.files)
    tables.say(f"{before} and {after} are identical: {tables.extent(found, size)}")


@app.command(name="reproduce")
def reproduce_release(
    folder: Path,
    *,
    base: Annotated[Path | None, typer.Option(help="The local base it was rehearsed on.")] = None,
    mirror: Annotated[Path | None, typer.Option(help="A folder with the inputs.")] = None,
    store: Annotated[
        Path, typer.Option(help="Where inputs and the rebuild are kept.")
    ] = identity.STORE,
    recalibrate: Annotated[
        bool, typer.Option("--recalibrate", help="Also calibrate here, and compare the scales.")
    ] = False,
) -> None:
    """Rebuilds a release, or one of which only the provenance is there, and compares."""
    found = reproduce.run(folder, Store(store), base=base, mirror=mirror, recalibrate=recalibrate)
    reproduce.show(found, folder)


def main() -> None:
    """Runs the command line."""
    console.command(app)


if __name__ == "__main__":
    main()
