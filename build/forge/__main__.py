"""The command line of forge; the Makefile calls it through nox."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from forge import catalogue, console, identity, pins, pipeline, recipe, release, summary
from forge.pipeline import Job
from forge.store import Store

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


Base = Annotated[
    Path | None, typer.Option(help="A local checkpoint of the same architecture to rehearse on.")
]
Mirror = Annotated[Path | None, typer.Option(help="A folder with the inputs, instead of the hub.")]
Environment = Annotated[
    Literal["build", "verify"], typer.Option(help="The environment that this process runs in.")
]


@app.command()
def run(
    variant: str,
    *,
    environment: Environment = "build",
    rehearse: Annotated[
        bool, typer.Option(help="Use the stand-in, or --base, instead of the recipe's base.")
    ] = False,
    base: Base = None,
    mirror: Mirror = None,
    out: Annotated[Path | None, typer.Option(help="Where the result goes.")] = None,
    verify: Annotated[
        Literal["none", "structure", "all"], typer.Option(help="How far the result is verified.")
    ] = "all",
    store: Annotated[Path, typer.Option(help="Where results of steps are kept.")] = identity.STORE,
) -> None:
    """Runs the steps of a variant that belong to one environment."""
    job = Job(
        recipe=recipe.find(variant),
        store=Store(store),
        rehearsal=rehearse,
        base=base,
        mirror=mirror,
        level=verify,
    )
    if not rehearse:
        job.recipe.require_pins()
        identity.require_commit()
    results = pipeline.run(job, environment)
    if "attest" in results:
        target = (out or release.folder(job)).resolve()
        release.publish(results, target)
        summary.show(target)


@app.command()
def fetch(
    folder: Path,
    *,
    base: Base = None,
    mirror: Mirror = None,
    store: Annotated[Path, typer.Option(help="Where results of steps are kept.")] = identity.STORE,
) -> None:
    """Fetches the inputs of a finished release, for checking it."""
    pipeline.run(release.job(folder, Store(store), base, mirror), "build", until="fetch")


@app.command(name="list")
def list_variants(
    *,
    markdown: Annotated[bool, typer.Option(help="As the table of the README.")] = False,
) -> None:
    """Prints the variants, one a line: base, what is quantized and kept, calibration, MTP."""
    if markdown:
        print(catalogue.table(), end="")  # noqa: T201
        return
    for name in recipe.names():
        print(catalogue.line(recipe.find(name)))  # noqa: T201


@app.command()
def lock(variant: str) -> None:
    """Completes a recipe's unresolved pins from the hub."""
    for change in pins.lock(variant) or ["every pin is resolved already"]:
        console.say(change)


def main() -> None:
    """Runs the command line."""
    console.command(app)


if __name__ == "__main__":
    main()
