"""Step verify: structure first, then what a real server makes of it; `verification.json`.

A later part runs only if the earlier ones passed: a checkpoint with a damaged structure is not
worth minutes of an engine. All that was measured is written, also when the verdict is no.
"""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assay.checks import structure
from forge.core.errors import VerificationError
from forge.manifest import document
from forge.manifest.names import VERIFICATION
from forge.manifest.verification import Check, passed, report

if TYPE_CHECKING:
    from forge.core.store import Result
    from forge.pipeline import Job, Work
    from forge.tensors.checkpoint import Checkpoint


def parameters(work: "Work") -> dict[str, Any]:
    """How far to verify, and the gates."""
    job = work.job
    return {
        "variant": job.recipe.name,  # stands in the report
        "level": job.level,
        "perplexity": job.recipe.perplexity.model_dump(mode="json"),
        "serve": job.recipe.serve.model_dump(mode="json"),
    }


def run(work: "Work", out: Path) -> None:
    """Verifies the dressed checkpoint.

    Raises:
        VerificationError: a check failed; report and logs are kept in the store under `failed/`.
    """
    job, dressed = work.job, work.needed["dress"]
    checks = assay(job, work.checkpoint, dressed.files, work.needed["fetch"], out)
    document.write(out / VERIFICATION, report(job.recipe.name, job.level, checks))
    failed = [check for check in checks if not check.passed]
    if failed:
        kept = job.store.root / "failed" / job.recipe.name
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(out, kept)
        raise VerificationError(
            "\n".join(
                [f"{len(failed)} of {len(checks)} checks failed:"]
                + [f"  {check.name}: {check.detail}" for check in failed]
                + [f"Report and logs are in {kept}; the checkpoint in {dressed.files}."]
            )
        )


def assay(
    job: "Job", made: "Checkpoint", folder: Path, fetched: "Result", logs: Path
) -> list[Check]:
    """The checks of the job's level, up to and with the first part that fails.

    Args:
        job: what was asked for.
        made: the checkpoint that the recipe makes of the base.
        folder: the checkpoint that is there.
        fetched: the inputs.
        logs: where the engine's logs go.
    """
    if job.level == "none":
        return []
    checks = structure.run(made, folder, fetched.files)
    if job.level == "structure" or not passed(checks):
        return checks
    from assay.serving import trial  # needs what only the engine's environment has

    return checks + trial.run(job, folder, fetched, logs)
