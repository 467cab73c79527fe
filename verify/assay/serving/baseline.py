"""The base's perplexity, scored once for all variants of that base and kept in the store."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from assay.serving import engine, flags
from assay.serving.perplexity import Perplexity, Text, score
from forge import pipeline
from forge.core import canonical
from forge.core.errors import EngineError
from forge.core.results import Result
from forge.core.store import Store

STEP = "perplexity"
FILE = "perplexity.json"


def perplexity(
    fetched: Result,
    text: Text,
    args: flags.Args,
    env: Mapping[str, str],
    store: Store,
    *,
    log: Path,
) -> Perplexity:
    """Scores the base of a fetch result, unless the store has that figure.

    Args:
        fetched: the result of fetch; the files of the base lie in its folder `base`.
        text: what is scored.
        args: see :func:`assay.serving.flags.scoring`.
        env: the variables of the serving profile, adapted to this machine.
        store: where the figure is kept, under the digests of all that it depends on.
        log: where the server's output goes. The figure does not have it beside it: if there is
            none, somebody wants to read why.

    Raises:
        EngineError: the engine does not serve the base, or computes nothing finite of it.
    """
    facts = {
        **pipeline.code_of(__name__),
        "parameters": {
            "text": canonical.sha256_text(text.content),
            "window": text.window,
            "max_windows": text.max_windows,
            "args": dict(args),
            "env": dict(env),
        },
        "needs": {
            fetched.step: {n: d for n, d in fetched.digests.items() if n.startswith("base/")}
        },
    }

    def work(out: Path) -> None:
        base = fetched.files / "base"
        with engine.serve(base, args, env=env, speculative_tokens=None, log=log) as server:
            figures = score(server.ready(), text)
        if not math.isfinite(figures.value):
            raise EngineError(f"{base}: its perplexity is {figures.value}; the base is damaged.")
        canonical.write(out / FILE, asdict(figures))

    found = pipeline.kept(store, STEP, facts, work, lambda _: (FILE,))
    pipeline.recheck({STEP: found}, whole=[STEP])
    figures: dict[str, Any] = canonical.read(found.files / FILE)
    return Perplexity(**figures)
