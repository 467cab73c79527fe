"""A real server with the flags of the published card, asked what its users will ask of it.

1. vLLM takes the flags of every published profile; the recipe's tool parser reads a call back that
   the checkpoint's own chat template wrote.
2. The server starts with MTP on, thinks and does not think, streams, calls tools, sees pictures, or
   refuses them if the checkpoint has no vision tower, and gives each text beside others that it
   gives alone.
3. The MTP head's drafts are accepted as often as the recipe demands.
4. A second server, without MTP, ends texts where it should, reads a long prompt in chunks as it
   wrote it, writes the same greedy text, is timed, and scores the perplexity.

Without an MTP head there is one server, and neither 3 nor the comparison and time of 4. A check
whose request the server refuses is reported as failed; none is left out.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from assay.serving import engine, flags, garbage, profiles
from assay.serving.client import Client
from assay.serving.probes import chat, image, image_refused
from assay.serving.sessions import Checks, Probe, Session, ask_all
from assay.serving.speculation import Handover, mtp, rewrite, speed
from assay.serving.texts import Writer
from assay.serving.tools import tool_call, tool_nested, tool_parser
from forge.manifest import served_figures, verification
from forge.manifest.measured import Figures
from forge.manifest.own_engine import EngineSettings
from forge.manifest.served_figures import Health
from forge.recipes.recipe import Recipe, Serve

PROMPTS = (
    "The lighthouse stands at the entrance of the harbour and was built in",
    "Copper is a soft metal that has been used by people for",
    "The river rises in the mountains and flows through",
    "In the nineteenth century the town grew quickly because",
    "A telescope gathers light with a lens or a mirror, so that",
    "The castle was destroyed during the war and was rebuilt",
    "The first railway in the country was opened in",
    "Whales are mammals that live in the sea, and they",
    "The university was founded by the king, who",
    "Volcanoes are found where the plates of the crust",
)
CPU_MAX_MODEL_LEN = 4096
CONSTRAINED_WITHOUT_MTP = (
    "smoke.scripts, smoke.tool_call, smoke.tool_nested: asked of the server without MTP, because "
    "on a CPU vLLM's gated delta net fails when a grammar rejects every drafted token (vLLM issue "
    "56419)."
)
EMULATED = (
    f"{served_figures.EMULATED}vLLM's own emulation, W4A4: weights dequantized when loaded, "
    "activations rounded to NVFP4, multiplied in BF16, because no CPU multiplies FP4."
)


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """The default profile, fitted to a checkpoint and this machine, and what that changed."""

    device: flags.Device
    args: flags.Args
    env: Mapping[str, str]
    adaptations: tuple[str, ...]


def fit(checkpoint: Path, serve: Serve, settings: EngineSettings | None = None) -> Fitted:
    """How the published profile is served here; `settings` has what this machine needs besides.

    Raises:
        EngineError: no vLLM is installed.
    """
    device = engine.device()
    longest = longest_context(checkpoint, device)
    args, changes = flags.adapt(serve.args, device=device, max_model_len=longest)
    env, left_out = flags.adapt_env(serve.env, device=device)
    notes: tuple[str, ...] = (EMULATED,) if device == "cpu" else ()
    if device == "cpu" and serve.speculative_tokens is not None:
        notes += (CONSTRAINED_WITHOUT_MTP,)
    args, more = flags.with_settings(args, settings.serve if settings else {}, "--")
    env, variables = flags.with_settings(env, settings.env if settings else {}, "")
    told = (*changes, *left_out, *more, *variables, *notes)
    return Fitted(device=device, args=args, env=env, adaptations=told)


def run(
    checkpoint: Path,
    recipe: Recipe,
    fitted: Fitted,
    *,
    workdir: Path,
    scoring: Mapping[str, Probe],
    prompts: Sequence[str] = PROMPTS,
) -> Checks:
    """Makes every check of this module; the servers' logs are kept in `workdir`.

    Args:
        checkpoint: the folder to serve.
        recipe: has the published profiles, the MTP settings and the thresholds.
        fitted: the default profile as :func:`fit` has it.
        workdir: where the logs go.
        scoring: further probes, asked of the server without MTP.
        prompts: what is continued greedily to measure MTP.

    Raises:
        EngineError: a server did not start, or died while it was asked.
    """
    began, serve = time.monotonic(), recipe.serve
    start = partial(engine.serve, checkpoint, fitted.args, env=fitted.env)
    plain = start(speculative_tokens=None, log=workdir / "serve-plain.log")
    writer = cache(partial(Writer, prompts=prompts))

    def long_prompt(client: Client) -> Figures:
        chunk = profiles.tokens_at_once(fitted.args)
        return writer(client).long_prompt(chunk=chunk, longest=_longest(checkpoint, fitted))

    asked: dict[str, Probe] = {
        "smoke.health": partial(health, began=began, fitted=fitted),
        "smoke.chat.thinking_on": partial(chat, thinking=True),
        "smoke.chat.thinking_off": partial(chat, thinking=False),
        "smoke.streaming": garbage.streaming,
        **({"smoke.image_refused": image_refused} if serve.text_only else {"smoke.image": image}),
    }
    at_once: dict[str, Probe] = {"smoke.concurrent": lambda client: writer(client).at_once()}
    constrained: dict[str, Probe] = {
        "smoke.scripts": garbage.scripts,
        "smoke.tool_call": tool_call,
        "smoke.tool_nested": tool_nested,
    }
    without_mtp: dict[str, Probe] = {
        "smoke.stop": partial(garbage.stop, checkpoint=checkpoint),
        "smoke.logprobs": partial(garbage.logprobs, text="\n".join(prompts)),
        "smoke.long_prompt": long_prompt,
        **scoring,
    }
    if serve.speculative_tokens is None:
        probes = {**asked, **at_once, **constrained, **without_mtp}
        sessions = [Session(server=plain, probes=probes)]
    else:
        together = fitted.device == "cpu"
        left = Handover()
        measured = partial(mtp, writer=writer, left=left, prompts=prompts, together=together)
        first: dict[str, Probe] = {**asked, "smoke.mtp": measured, **at_once}
        second: dict[str, Probe] = {
            **without_mtp,
            "smoke.greedy_identical": partial(rewrite, writer=writer, left=left),
            "smoke.mtp_speed": partial(speed, prompts=prompts, left=left),
        }
        if together:
            second = constrained | second
        else:
            first = constrained | first
        with_mtp = start(speculative_tokens=serve.speculative_tokens, log=workdir / "serve-mtp.log")
        sessions = [
            Session(server=with_mtp, probes=first, done=left.end),
            Session(server=plain, probes=second),
        ]

    def meanwhile() -> Checks:
        parser = str(serve.args.get("tool-call-parser", ""))
        looks: dict[str, Callable[[], Figures]] = {
            "smoke.profiles": partial(profiles.taken, serve, serve.profiles),
            "smoke.tool_parser": partial(tool_parser, checkpoint, parser),
        }
        return [verification.check(name, recipe, look) for name, look in looks.items()]

    return ask_all(sessions, recipe, together=fitted.device == "cpu", meanwhile=meanwhile)


def health(client: Client, *, began: float, fitted: Fitted) -> Health:
    """The server is up; since `began`, with which flags, and what differs from the published."""
    seconds = round(time.monotonic() - began, 1)
    client.require_health()
    return Health(
        startup_seconds=seconds,
        args=dict(fitted.args),
        env=dict(fitted.env),
        adaptations=fitted.adaptations,
    )


def _longest(checkpoint: Path, fitted: Fitted) -> int:
    """The most tokens that the server takes."""
    positions = longest_context(checkpoint, fitted.device)
    return min(int(fitted.args.get("max-model-len", positions)), positions)


def longest_context(checkpoint: Path, device: flags.Device) -> int:
    """The positions that the model has; on a CPU not more than the checks need."""
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    positions: int = config.get("text_config", config)["max_position_embeddings"]
    return positions if device == "cuda" else min(positions, CPU_MAX_MODEL_LEN)
