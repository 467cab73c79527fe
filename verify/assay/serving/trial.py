"""What a checkpoint does when it runs: its perplexity beside the base's, and the smoke tests."""

from functools import partial
from pathlib import Path

from assay.serving import baseline, flags, perplexity, smoke
from assay.serving.perplexity import Text
from assay.serving.sessions import Checks, Probe
from forge.core.results import Result
from forge.manifest import document
from forge.manifest.inputs import Inputs
from forge.manifest.names import INPUTS
from forge.manifest.own_engine import EngineSettings
from forge.pipeline import Job

# A stand-in is compared with its own base and with no published figure, so a part of the text is
# enough: 65,000 tokens, half a minute of two cores where wikitext-2 would take ten times as long.
STANDIN_WINDOWS = 128


def run(
    job: Job,
    checkpoint: Path,
    fetched: Result,
    logs: Path,
    settings: EngineSettings | None = None,
) -> Checks:
    """Scores the base unless that was done, and makes every check of a running checkpoint.

    Raises:
        EngineError: no vLLM is installed here, or a server did not start or died.
    """
    gate, serve = job.recipe.perplexity, job.recipe.serve
    text = Text(
        name=document.read(Inputs, fetched.files / INPUTS).sources["perplexity"].name,
        content=(fetched.files / "perplexity" / "text.txt").read_text(encoding="utf-8"),
        window=gate.window,
        max_windows=STANDIN_WINDOWS if job.rehearsal and job.base is None else None,
    )
    judged = job.recipe.judging(rehearsal=job.rehearsal)
    fitted = smoke.fit(checkpoint, serve, settings)
    args = flags.scoring(fitted.args, window=text.window)
    log = logs / "serve-base.log"
    base = baseline.perplexity(fetched, text, args, fitted.env, job.store, log=log)
    compare = partial(
        perplexity.compare,
        base=base,
        text=text,
        args={"base": args, "result": fitted.args},
    )
    scoring: dict[str, Probe] = {"perplexity": compare}
    return smoke.run(checkpoint, judged, fitted, workdir=logs, scoring=scoring)
