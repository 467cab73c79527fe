"""Step verify: structure first, then what a real server makes of it; `verification.json`.

The structure's one pass measures the error of every linear, too: `quantization_error.jsonl`.

A later part runs only if the earlier ones passed: a checkpoint with a damaged structure is not
worth minutes of an engine. All that was measured is written, also when the verdict is no.
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assay.checks import structure
from assay.checks.structure import Findings, Listed
from forge.core.errors import VerificationError
from forge.manifest import document
from forge.manifest.names import ERRORS, VERIFICATION
from forge.manifest.verification import expected, passed, report
from forge.tensors import family, tensor_list, weight_errors

if TYPE_CHECKING:
    from forge.core.results import Result
    from forge.manifest.own_engine import EngineSettings
    from forge.pipeline import Job, Work
    from forge.tensors.checkpoint import Checkpoint


def parameters(work: "Work") -> dict[str, Any]:
    """How far to verify, the recipe that the result is compared with, and what its family says.

    Prose is left out.
    """
    judged = work.recipe.judging(rehearsal=work.job.rehearsal)
    return {
        "level": work.job.level,
        "recipe": judged.without_prose(),
        "family": family.digest(work.recipe.architecture),
    }


def run(work: "Work", out: Path) -> None:
    """Verifies the whole checkpoint.

    Raises:
        VerificationError: a check failed.
        EngineError: as :func:`assay`.
    """
    job, dress = work.job, work.needed["dress"]
    fetched, logs = work.needed["fetch"], out
    found = assay(job, work.checkpoint, dress.files, fetched, _written(work), logs)
    checks = found.checks
    made = report(job.recipe, job.level, checks)
    document.write(out / VERIFICATION, made)
    if found.errors:
        errors = weight_errors.lines(found.errors)
        (out / ERRORS).write_text(errors, encoding="utf-8")
    failed = job.level != "none" and not made.passed
    if failed:
        problems = [f"  {check.name}: {check.problem}" for check in checks if not check.passed]
        wanted = len(expected(job.recipe, job.level))
        raise VerificationError(
            "\n".join(
                [
                    f"{len(problems)} of {wanted} checks failed, {len(checks)} were made:",
                    *problems,
                    f"The checkpoint is in {dress.files}.",
                ]
            )
        )


def assay(  # noqa: PLR0917 - the result, three things to compare it with, and a place for logs
    job: "Job",
    made: "Checkpoint",
    folder: Path,
    fetched: "Result",
    listed: Listed,
    logs: Path,
    settings: "EngineSettings | None" = None,
) -> Findings:
    """The checks of the job's level, up to and with the first part that fails.

    Args:
        job: what was asked for.
        made: the checkpoint that the recipe makes of the base.
        folder: the checkpoint that is there.
        fetched: the inputs.
        listed: what was written.
        logs: where the engine's logs go.
        settings: what this machine's engine needs besides the published profile. A build has none.
    """
    if job.level == "none":
        return Findings(checks=[])
    found = structure.run(made, folder, fetched, listed)
    if job.level == "structure" or not passed(found.checks):
        return found
    from assay.serving import trial  # needs what only the engine's environment has

    return replace(found, checks=found.checks + trial.run(job, folder, fetched, logs, settings))


def _written(work: "Work") -> Listed:
    """The digests that were taken while the checkpoint was written."""
    lists = (work.needed[step].files / tensor_list.FILE for step in ("quantize", "graft"))
    # A recipe that drops the head has no shard of it.
    tensors = [tensor_list.read(path) for path in lists if path.is_file()]
    return Listed(
        files=work.needed["dress"].digests,
        tensors={name: line.sha256 for found in tensors for name, line in found.items()},
    )
