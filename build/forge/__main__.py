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


@app.command(name="release")
def assemble_release(
    folder: Path,
    *,
    store: Annotated[Path, typer.Option(help="Where the base may be.")] = identity.STORE,
) -> None:
    """Makes a finished build a release: card, notice, report, and the list of all files."""
    from forge import assemble  # needs what only the release environment has, as those below

    assemble.assemble(folder, Store(store))


@app.command()
def keygen(key: Path) -> None:
    """Makes a signing key, and its public half beside it."""
    from forge import keys

    name = keys.generate(key)
    console.say(f"{key} is the private key, {key}.pub the public key; its name is {name}")


@app.command()
def sign(
    folder: Path,
    *,
    key: Annotated[Path | None, typer.Option(help="Instead of the identity at hand.")] = None,
    model_signature: Annotated[
        bool, typer.Option("--model-signature", help="Also sign the model as OpenSSF does.")
    ] = False,
) -> None:
    """Signs a release."""
    from forge import signing

    signing.sign(folder, key, model_signature=model_signature)


@app.command()
def publish(
    folder: Path,
    repo: str,
    *,
    confirm: Annotated[bool, typer.Option("--confirm", help="Really upload.")] = False,
    rehearsal: Annotated[bool, typer.Option("--rehearsal", help="Even a rehearsal.")] = False,
) -> None:
    """Uploads a signed release to the hub; tells what it would do unless confirmed."""
    from forge import upload

    upload.upload(folder, repo, confirm=confirm, rehearsal=rehearsal)


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
