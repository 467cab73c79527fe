"""The command line of forge; the Makefile calls it through nox."""

import sys

from forge.core import signals

if __name__ == "__main__":  # before imports that take a while
    # The steps of an environment are a process of a build, which tells of the signal.
    signals.watch(inner=sys.argv[1:2] == ["steps"])

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Literal

import typer

from forge import driver, pipeline, remedies
from forge import ledger as ledgers
from forge.core import checkout, commandline, console, disk, exit_codes, filesystem
from forge.core.model import Level
from forge.core.store import Store
from forge.inputs import pins
from forge.manifest import schemas
from forge.pipeline import Job
from forge.recipes import catalogue, recipe
from forge.release.folder import folder_for, job_of
from forge.storekeeping import contents, fsck, gc, survey

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    epilog=commandline.EPILOG,
)


Base = Annotated[
    Path | None, typer.Option(help="A local checkpoint of the same architecture to rehearse on.")
]
Mirror = Annotated[Path | None, typer.Option(help="A folder to take inputs from, before the hub.")]
Verify = Annotated[Level, typer.Option(help="Which checks to run.")]
Rehearse = Annotated[
    bool, typer.Option(help="Use the stand-in, or --base, instead of the recipe's base.")
]
Out = Annotated[Path | None, typer.Option(help="The folder to place the result in.")]
StorePath = Annotated[
    Path, typer.Option(help="The folder of the store.", callback=contents.require_store)
]


store_app = typer.Typer(no_args_is_help=True, epilog=commandline.EPILOG)
app.add_typer(store_app, name="store", help="Lists, measures, cleans and checks the store.")


@app.command()
def build(
    variant: str,
    *,
    rehearse: Rehearse = False,
    base: Base = None,
    mirror: Mirror = None,
    out: Out = None,
    verify: Verify = "all",
    store: StorePath = checkout.STORE,
    runner: Annotated[
        Literal["host", "image"], typer.Option(help="Run on this machine, or in the pinned image.")
    ] = "host",
    memory: Annotated[
        float | None,
        typer.Option(help="GiB of memory, in the image; by default all but 2 of this machine."),
    ] = None,
    shared: Annotated[
        float | None,
        typer.Option(help="GiB of shared memory, in the image; by default 8, or 1 to rehearse."),
    ] = None,
    hours: Annotated[float, typer.Option(help="Hours after which a container is stopped.")] = 24.0,
    replace: Annotated[
        bool,
        typer.Option(
            "--replace",
            help="Replace even a signed release, or files that a build did not write.",
        ),
    ] = False,
) -> None:
    """Builds a variant, or rehearses it: every step in its own environment."""
    job = Job(
        recipe=recipe.find(variant),
        store=Store(store),
        rehearsal=rehearse,
        base=base,
        mirror=mirror,
        level=verify,
    )
    if not rehearse:
        job.recipe.require_ready()
        checkout.require_commit()
    if runner == "host":
        running: AbstractContextManager[driver.Runner] = driver.on_this_machine(job)
    else:
        from forge.container import requirements
        from forge.container.build import in_the_image

        gib = requirements.GIB
        limits = requirements.Limits(
            memory=requirements.memory() - 2 * gib if memory is None else int(memory * gib),
            shared=int((shared or (1 if rehearse else 8)) * gib),
            seconds=hours * 3600,
        )
        running = in_the_image(job, limits)
    target = filesystem.real(out or folder_for(job))
    raise typer.Exit(driver.build(job, target, running, replace=replace))


@app.command(hidden=True)
def steps(ledger: Path, environment: Literal["build", "verify"]) -> None:
    """Runs the steps of one environment, for the build that wrote the ledger."""
    job, results = ledgers.read(ledger)
    ledgers.write(ledger, job, pipeline.run(job, within=(environment,), given=results))


@app.command()
def image(
    *,
    base: Annotated[
        str | None, typer.Option(help="A local image to use instead of the pinned base.")
    ] = None,
    snapshot: Annotated[
        str | None,
        typer.Option(help="Another date of the archive, or none for the base's own sources."),
    ] = None,
) -> None:
    """Makes the pinned image of this tree."""
    from forge.container import answers, requirements
    from forge.container import image as pinned

    client = requirements.engine()
    root = answers.field(answers.info(client), "DockerRootDir")
    disk.require(Path(root), requirements.IMAGE_DISK, "the image")
    made = pinned.build(client, base=base, snapshot=snapshot)
    console.say(f"{pinned.name()} is ready: {made.id}, layers {made.layers}")


@app.command(name="preflight")
def look_before(
    variant: str,
    *,
    rehearse: Rehearse = False,
    base: Base = None,
    mirror: Mirror = None,
    store: StorePath = checkout.STORE,
) -> None:
    """Tells from headers and configs whether a base can be built from; fetches nothing else."""
    from forge.inputs import fetch as inputs
    from forge.inputs import preflight

    job = Job(
        recipe=recipe.find(variant),
        store=Store(store),
        rehearsal=rehearse or base is not None,
        base=base,
        mirror=mirror,
        level="none",
    )
    preflight.check(inputs.choose(job, inputs.LINKED))


@app.command()
def fetch(
    folder: Path,
    ledger: Annotated[Path, typer.Argument(help="The file to write the result's key to.")],
    *,
    base: Base = None,
    mirror: Mirror = None,
    store: StorePath = checkout.STORE,
) -> None:
    """Fetches the inputs of a finished release, for checking it."""
    from forge.inputs import fetch as inputs

    job = inputs.choose(job_of(folder, Store(store), base, mirror))
    ledgers.write(ledger, job, pipeline.run(job, until="fetch"))


@app.command(name="release")
def assemble_release(
    folder: Path,
    *,
    replace: Annotated[
        bool,
        typer.Option(
            "--replace", help="Replace even a signed release, which loses its signatures."
        ),
    ] = False,
) -> None:
    """Makes a finished build a release: card, notice, report, and the list of all files."""
    from forge.release import (
        assemble,  # needs what only the release environment has, as those below
    )

    assemble.assemble(folder, replace=replace)


@app.command()
def keygen(key: Path) -> None:
    """Makes a signing key, and its public half beside it."""
    from forge.release import keys

    name = keys.generate(key)
    console.say(f"{key} is the private key, {key}.pub the public key; its name is {name}")


@app.command()
def sign(
    folder: Path,
    *,
    key: Annotated[
        Path | None,
        typer.Option(help="The private key; without it, the identity of this CI job signs."),
    ] = None,
    model_signature: Annotated[
        bool, typer.Option("--model-signature", help="Also write an OpenSSF model signature.")
    ] = False,
) -> None:
    """Signs a release."""
    from forge.release import signing

    signing.sign(folder, key, model_signature=model_signature)


@app.command()
def publish(
    folder: Path,
    repo: str,
    *,
    confirm: Annotated[
        bool, typer.Option("--confirm", help="Upload. Without it, say what would be uploaded.")
    ] = False,
    rehearsal: Annotated[
        bool, typer.Option("--rehearsal", help="Upload even a rehearsal.")
    ] = False,
) -> None:
    """Uploads a signed release to the hub; without --confirm, says what it would do."""
    from forge.release import publish as upload

    upload.upload(folder, repo, confirm=confirm, rehearsal=rehearsal)
    if not confirm:
        console.say(remedies.words("unconfirmed", {}))


@app.command(name="list")
def list_variants(
    *,
    markdown: Annotated[bool, typer.Option(help="Print the table of docs/variants.md.")] = False,
) -> None:
    """Prints the variants, one a line: ready or not, base, what is quantized, calibration, MTP."""
    if markdown:
        print(catalogue.table(), end="")  # noqa: T201
        return
    for name in recipe.names():
        console.out(catalogue.line(recipe.find(name)))


@app.command()
def lock(variant: str) -> None:
    """Completes a recipe's unresolved pins from the hub."""
    for change in pins.lock(variant) or ["every pin is resolved already"]:
        console.say(change)


@app.command(name="exit-codes")
def print_exit_codes() -> None:
    """Prints the exit codes of the command lines, as the table in docs/exit-codes.md."""
    print(exit_codes.table(), end="")  # noqa: T201


@app.command(name="schemas")
def write_schemas(
    *,
    out: Annotated[Path, typer.Option(help="The folder to write to.")] = schemas.FOLDER,
) -> None:
    """Writes the JSON Schemas of the documents of a build and of a release."""
    for path in schemas.write(out):
        console.say(f"{path} is written")


@store_app.command(name="list")
def list_results(
    *,
    full: Annotated[bool, typer.Option("--full", help="Print keys in full.")] = False,
    store: StorePath = checkout.STORE,
) -> None:
    """Prints the results, one a line: step, key, time, size, shared with dist or not, variants."""
    for line in survey.lines(Store(store), full=full):
        console.out(line)


@store_app.command()
def size(*, store: StorePath = checkout.STORE) -> None:
    """Prints the bytes by step, and those of leftovers and downloads; shared bytes count once."""
    for line in survey.sizes(Store(store)):
        console.out(line)


@store_app.command(name="gc")
def collect(
    *,
    days: Annotated[
        float, typer.Option(min=0, help="Keep what a build has used within this many days.")
    ] = gc.DAYS,
    calibrations: Annotated[
        bool,
        typer.Option(
            "--calibrations", help="Also remove calibrations and perplexities of real bases."
        ),
    ] = False,
    aside: Annotated[bool, typer.Option("--aside", help="Also remove what was set aside.")] = False,
    confirm: Annotated[
        bool, typer.Option("--confirm", help="Remove it. Without it, say what would be removed.")
    ] = False,
    store: StorePath = checkout.STORE,
) -> None:
    """Removes what nothing needs any more; tells what it would remove unless confirmed."""
    gc.gc(Store(store), days=days, calibrations=calibrations, aside=aside, confirm=confirm)
    if not confirm:
        console.say(remedies.words("unconfirmed-removal", {}))


@store_app.command(name="fsck")
def check(*, store: StorePath = checkout.STORE) -> None:
    """Hashes all that is stored, and removes what is damaged; fails if something was."""
    fsck.fsck(Store(store))


def main() -> None:
    """Runs the command line."""
    # The steps of an environment are a process of a build, which exits with their code.
    commandline.run(app, remedies.remedy, tell_code=sys.argv[1:2] != ["steps"])


if __name__ == "__main__":
    main()
