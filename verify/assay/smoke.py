"""A real server with the flags of the published card, asked what its users will ask of it.

1. The tool parser reads a call back that the checkpoint's own chat template wrote.
2. The server starts with MTP on, thinks and does not think, calls a tool, sees a picture.
3. The MTP head's drafts are accepted as often as the recipe demands.
4. A second server, without MTP, writes the same greedy text.

A check that cannot be made is reported as failed; none is left out.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from assay import engine, flags
from assay.checks import Check
from assay.engine import Client
from assay.probes import chat, image, tool_call, tool_parser
from assay.speculation import (
    Completion,
    acceptance,
    complete,
    greedy_identical,
    own_noise,
    speculation,
)
from forge.errors import EngineError
from forge.recipe import Serve

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
    "smoke.tool_call: asked of the server without MTP, because on a CPU vLLM's gated delta net "
    "fails when a grammar rejects every drafted token (vLLM issue 56419)."
)
Probe = Callable[[Client], Check]


def run(
    checkpoint: Path, serve: Serve, *, workdir: Path, prompts: Sequence[str] = PROMPTS
) -> list[Check]:
    """Makes every check of this module; the servers' logs are kept in `workdir`.

    Args:
        checkpoint: the folder to serve.
        serve: the published flags, the MTP settings and their floor.
        workdir: where the logs go.
        prompts: what is continued greedily to measure MTP.

    Raises:
        EngineError: vLLM does not run on this machine at all.
    """
    device = engine.device()
    longest = longest_context(checkpoint, device)
    args, adaptations = flags.adapt(serve.args, device=device, max_model_len=longest)
    if device == "cpu":
        adaptations += (CONSTRAINED_WITHOUT_MTP,)
    drafted: list[Completion] = []
    began = time.monotonic()
    first: dict[str, Probe] = {
        "smoke.health": partial(health, began=began, args=args, adaptations=adaptations),
        **FREE,
        "smoke.mtp": partial(mtp, serve=serve, prompts=prompts, drafted=drafted),
    }
    second: dict[str, Probe] = {
        "smoke.greedy_identical": partial(rewrite, prompts=prompts, drafted=drafted)
    }
    (second if device == "cpu" else first).update(CONSTRAINED)
    start = partial(engine.serve, checkpoint, args)
    with_mtp = start(speculative_tokens=serve.speculative_tokens, log=workdir / "serve-mtp.log")
    without = start(speculative_tokens=None, log=workdir / "serve-plain.log")
    parser = str(serve.args.get("tool-call-parser", ""))
    return [tool_parser(checkpoint, parser), *ask(with_mtp, first), *ask(without, second)]


def ask(server: AbstractContextManager[Client], probes: Mapping[str, Probe]) -> list[Check]:
    """One check a probe, from one server; all of them failed if it does not start."""
    try:
        with server as client:
            return [_attempt(name, partial(probe, client)) for name, probe in probes.items()]
    except EngineError as error:
        return [_failed(name, str(error)) for name in probes]


def health(client: Client, *, began: float, args: flags.Args, adaptations: Sequence[str]) -> Check:
    """The server is up; since `began`, with which flags, and what differs from the published."""
    seconds = round(time.monotonic() - began, 1)
    return Check(
        name="smoke.health",
        passed=client.healthy(),
        detail=f"up after {seconds} s; {len(adaptations)} adaptations to this machine",
        measured={
            "startup_seconds": seconds,
            "args": dict(args),
            "adaptations": list(adaptations),
        },
    )


def mtp(
    client: Client, *, serve: Serve, prompts: Sequence[str], drafted: list[Completion]
) -> Check:
    """The head drafts, and each position is accepted as often as the recipe demands.

    The greedy texts that were measured are left in `drafted`, to be compared.
    """
    before = speculation(client.metrics())
    drafted += [complete(client, prompt) for prompt in prompts]
    return acceptance(speculation(client.metrics()).since(before), serve.acceptance_floor)


def rewrite(client: Client, *, prompts: Sequence[str], drafted: Sequence[Completion]) -> Check:
    """Writes the texts of :func:`mtp` once more, without MTP, and compares."""
    if not drafted:
        return _failed("smoke.greedy_identical", "there is no text with MTP to compare with")
    plain = [complete(client, prompt) for prompt in prompts]
    noise = max(own_noise(client, completion) for completion in plain)
    return greedy_identical(drafted, plain, noise=noise)


def longest_context(checkpoint: Path, device: flags.Device) -> int:
    """The positions that the model has; on a CPU not more than the checks need."""
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    positions: int = config.get("text_config", config)["max_position_embeddings"]
    return positions if device == "cuda" else min(positions, CPU_MAX_MODEL_LEN)


def _attempt(name: str, probe: Callable[[], Check]) -> Check:
    try:
        return probe()
    except EngineError as error:
        return _failed(name, str(error))


def _failed(name: str, detail: str) -> Check:
    return Check(name=name, passed=False, detail=detail)


FREE: dict[str, Probe] = {
    "smoke.chat.thinking_on": partial(chat, thinking=True),
    "smoke.chat.thinking_off": partial(chat, thinking=False),
    "smoke.image": image,
}
CONSTRAINED: dict[str, Probe] = {"smoke.tool_call": tool_call}
