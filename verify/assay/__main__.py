"""The command line of the assay; the Makefile calls it through nox."""

from forge.core import signals

if __name__ == "__main__":  # before imports that take a while
    signals.watch()

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from assay.rebuild import compare, tables
from forge import ledger as ledgers
from forge import pipeline, remedies
from forge.core import canonical, commandline, console, filesystem, placing
from forge.core import checkout as here
from forge.core.errors import DifferenceError, FileSystemError, VerificationError
from forge.core.store import Store
from forge.manifest import sums, verification
from forge.manifest.names import SUMS, TENSORS
from forge.release.folder import provenance_of
from forge.tensors import tensor_list

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    epilog=commandline.EPILOG,
)


@app.command()
def check(
    folder: Path,
    ledger: Annotated[Path, typer.Argument(help="The file that `forge fetch` wrote.")],
    *,
    engine: Annotated[
        Path | None,
        typer.Option(help="What this machine's own engine needs, as TOML; no release has that."),
    ] = None,
    logs: Annotated[
        Path | None, typer.Option(help="The folder to keep the engine's logs in.")
    ] = None,
) -> None:
    """Tests a finished folder, and changes nothing in it."""
    from assay import verify  # needs what only the verify environment has, as do these two:
    from assay.checks.structure import Listed
    from assay.serving import own

    settings = None if engine is None else own.read(engine)
    if logs is not None and filesystem.real(logs).is_relative_to(filesystem.real(folder)):
        raise FileSystemError(f"{logs}: lies in {folder}, which is only read. Name another folder.")
    job, results = ledgers.read(ledger)
    pipeline.recheck(results, trusted={"fetch": ("perplexity/",)})
    fetched = results["fetch"]
    made = pipeline.work_on(job, results).checkpoint
    provenance = provenance_of(folder)
    tensors = tensor_list.read(provenance / TENSORS)
    listed = Listed(
        files=sums.read(provenance / SUMS),
        tensors={name: line.sha256 for name, line in tensors.items()},
    )
    with nullcontext(logs) if logs else job.store.scratch("assay") as kept:
        kept.mkdir(parents=True, exist_ok=True)
        found = verify.assay(job, made, filesystem.real(folder), fetched, listed, kept, settings)
    checks = found.checks
    for one in checks:
        console.say(f"{'pass' if one.passed else 'FAIL'}  {one.name}: {one.told}")
    report = verification.report(job.recipe, job.level, checks, own.engine(settings))
    console.out_json(report.encoded().decode())
    if not report.passed:
        raise VerificationError(f"{folder}: failed the assay.")


@app.command(name="compare")
def compare_folders(
    before: Path,
    after: Path,
    *,
    report: Annotated[
        Path | None, typer.Option(help="The file to write the result to, as JSON.")
    ] = None,
) -> None:
    """Compares two checkpoint folders: prints each file, and each tensor that differs."""
    found = compare.folders(before, after)
    if report is not None:
        placing.write(report, f"{canonical.dumps(found.as_json())}\n".encode())
    if not found.identical:
        tables.show(found)
        raise DifferenceError(f"{before} and {after}: {tables.counts(found)}.")
    size = sum((after / file.path).stat().st_size for file in found.files)
    tables.say(f"{before} and {after} are identical: {tables.extent(found, size)}")


@app.command(name="reproduce")
def reproduce_release(
    folder: Path,
    *,
    base: Annotated[
        Path | None, typer.Option(help="The local base that it was rehearsed on.")
    ] = None,
    mirror: Annotated[
        Path | None, typer.Option(help="A folder to take inputs from, before the hub.")
    ] = None,
    store: Annotated[Path, typer.Option(help="The folder of the store.")] = here.STORE,
    recalibrate: Annotated[
        bool, typer.Option("--recalibrate", help="Also calibrate again, and compare the scales.")
    ] = False,
    report: Annotated[
        Path | None, typer.Option(help="The file to write the result to, as JSON.")
    ] = None,
) -> None:
    """Rebuilds a release from its provenance, and compares."""
    from assay.rebuild import reproduce  # needs numba, which the check environment has not

    found = reproduce.run(folder, Store(store), base=base, mirror=mirror, recalibrate=recalibrate)
    if report is not None:
        placing.write(report, found.outcome.encoded())
    reproduce.show(found, folder)


@app.command(name="attest-reproduction")
def attest_reproduction(
    folder: Path,
    report: Path,
    *,
    out: Annotated[Path, typer.Option(help="The folder to write the statement to.")],
    key: Annotated[Path | None, typer.Option(help="The rebuilder's private key.")] = None,
    builder: Annotated[str | None, typer.Option(help="The id of the rebuilder, a URI.")] = None,
) -> None:
    """Signs a statement that a release was reproduced, from the report of the rebuild."""
    from assay.release import rebuilders  # needs what only the check environment has, as below

    console.say(f"signed {rebuilders.attest_reproduction(folder, report, key, builder, out)}")


@app.command(name="verify-release")
def verify_a_release(
    folder: Path,
    *,
    key: Annotated[Path | None, typer.Option(help="The publisher's public key.")] = None,
    identity: Annotated[
        str | None, typer.Option(help="The identity that signed, instead of a key.")
    ] = None,
    issuer: Annotated[str | None, typer.Option(help="Who vouches for the identity.")] = None,
    policy: Annotated[
        Path | None, typer.Option(help="A policy: what is demanded, as TOML.")
    ] = None,
    reproduced: Annotated[
        int | None, typer.Option(help="How many rebuilders are demanded.")
    ] = None,
    statement: Annotated[list[Path] | None, typer.Option(help="A rebuilder's statement.")] = None,
    rebuilder: Annotated[list[Path] | None, typer.Option(help="A rebuilder's public key.")] = None,
    unsigned: Annotated[
        bool, typer.Option("--unsigned", help="Check an unsigned release.")
    ] = False,
    rehearsal: Annotated[
        bool, typer.Option("--rehearsal", help="Accept a rehearsal as well as a real build.")
    ] = False,
    variant: Annotated[str | None, typer.Option(help="The variant that it must be.")] = None,
    digest: Annotated[
        str | None, typer.Option(help="The SHA-256 that its provenance.json must have.")
    ] = None,
    since: Annotated[
        str | None, typer.Option(help="The date or time that it must not be older than.")
    ] = None,
    commit: Annotated[
        str | None, typer.Option(help="The commit of Hallmark that must have built it.")
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="The commit of the base that it must be made from.")
    ] = None,
    formats: Annotated[
        str | None, typer.Option(help="The formats that it must have, such as nvfp4,fp8.")
    ] = None,
) -> None:
    """Verifies a release, step by step."""
    from assay.release import expectations, steps, trust
    from assay.release import policy as policies
    from assay.release import verify as verify_release

    stated = expectations.stated(
        variant=variant,
        digest=digest,
        since=since,
        commit=commit,
        revision=revision,
        formats=formats,
    )
    given = [one for one in (key, policy, *(statement or ()), *(rebuilder or ())) if one]
    policies.require_outside(folder, given)
    demands = policies.demanded(policy, rehearsal=rehearsal, reproduced=reproduced)
    trusted = trust.publisher(demands, key=key, identity=identity, issuer=issuer, unsigned=unsigned)
    found = verify_release.verify(
        filesystem.real(folder),
        steps.Demands(
            trust=trusted,
            policy=demands,
            stated=stated,
            statements=statement or (),
            rebuilders=trust.rebuilders(demands, rebuilder or ()),
        ),
        tables.say,
    )
    tables.say(f"{folder} is verified: {found}")


def main() -> None:
    """Runs the command line."""
    commandline.run(app, remedies.remedy)


if __name__ == "__main__":
    main()
