"""A base of random weights in the sizes of Qwen3.6-27B: made, built, checked, loaded and asked.

Each part runs in a process of its own, so that its time and its memory are its own.
"""

import json
import math
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from gpu import machines

VARIANT = "qwen36-27b-vlm-mtp"
SHARD = 4 << 30  # bytes
CHUNK = 64 << 20
TOKENS = 64
STEPS = ("quantize", "graft", "dress", "verify")
# Random BF16 of both signs from 2**-10 to 2**-6: sign, two bits of the exponent, and mantissa are
# random, the rest of the exponent is given.
RANDOM_BITS, GIVEN_BITS = 0x81FF, 117 << 7
LOADED = re.compile(r"Model loading took ([\d.]+) GiB")


def config(*, layers: int | None, small: bool) -> dict[str, Any]:
    """The config.json: the published sizes with so many layers, or the stand-in's sizes."""
    import family_configs

    if small:
        return dict(family_configs.small("qwen3_5").data)
    # A quarter of each of the 256 numbers of a head is rotated, which is 32 pairs.
    found = family_configs.published("qwen3_5")
    rope = found.data["text_config"]["rope_parameters"] | {"mrope_section": [11, 11, 10]}
    text = {"rope_parameters": rope}
    if layers is not None:
        kinds = found.data["text_config"]["layer_types"]
        text |= {"num_hidden_layers": layers, "layer_types": kinds[:layers]}
    return dict(family_configs.change(found, text_config=text).data)


def make_base(folder: Path, wanted: dict[str, Any], workers: int) -> int:
    """Writes a base of random weights, several shards at a time; the bytes of its tensors."""
    from forge.core import canonical
    from forge.inputs import standin
    from forge.tensors import family, tensorfile
    from forge.tensors.tensorfile import Spec

    # Tokenizer, processor and template are the stand-in's: its tokens are among the vocabulary.
    weights = shutil.ignore_patterns("*.safetensors", tensorfile.INDEX, "config.json")
    shutil.copytree(standin.ROOT / "qwen36-dense/checkpoint", folder, ignore=weights)
    canonical.write(folder / "config.json", wanted)
    read = family.Config(path=folder / "config.json", data=wanted)
    tensors = family.find(read).expected(read)
    specs = [Spec(name=name, dtype="BF16", shape=one.shape) for name, one in tensors.items()]
    shards: list[list[Spec]] = [[]]
    for spec in specs:
        if sum(map(_bytes, shards[-1])) > SHARD:
            shards.append([])
        shards[-1].append(spec)
    files = [f"model-{n + 1:05d}-of-{len(shards):05d}.safetensors" for n in range(len(shards))]
    with ProcessPoolExecutor(workers) as pool:
        paths = [folder / file for file in files]
        list(pool.map(_write_shard, paths, shards, range(len(shards))))
    placed = [(file, spec) for file, part in zip(files, shards, strict=True) for spec in part]
    canonical.write(folder / tensorfile.INDEX, tensorfile.index_json(placed))
    return sum(map(_bytes, specs))


def _bytes(spec: Any) -> int:
    return 2 * math.prod(spec.shape)


def _write_shard(path: Path, specs: Sequence[Any], seed: int) -> None:
    import numpy as np

    from forge.tensors import tensorfile

    source = np.random.SFC64(seed)
    left = sum(map(_bytes, specs))
    with path.open("wb") as file:
        file.write(tensorfile.header_bytes(list(specs)))
        while left:
            count = min(left, CHUNK)
            bits = source.random_raw(-(-count // 8)).view(np.uint16)
            bits &= RANDOM_BITS
            bits += GIVEN_BITS
            file.write(bits.view(np.uint8)[:count])
            left -= count


def run(
    out: Path, engine: Path | None, work: Path | None, *, layers: int | None, small: bool,
    with_engine: bool,
) -> bool:  # fmt: skip
    """Runs every part and writes the result file; whether all went well."""
    machine = machines.facts()
    parts: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=work) as apart:
        folder, ledger = Path(apart), Path(apart, "ledger.json")
        wanted = config(layers=layers, small=small)
        todo: dict[str, Callable[[], Any]] = {
            "base": lambda: make_base(folder / "base", wanted, os.cpu_count() or 1),
            "fetch": lambda: _fetch(folder, ledger),
            **{step: lambda step=step: _step(ledger, step) for step in STEPS},
        }
        if with_engine:
            logs = out / "logs" / f"{machine['kind']}-full-size.log"
            todo["engine"] = lambda: _generate(ledger, engine, logs)
        sizes = ("hidden_size", "num_hidden_layers", "vocab_size")
        result = {
            "machine": machine,
            "variant": VARIANT,
            "sizes": {name: wanted["text_config"][name] for name in sizes},
            "parts": parts,
            "passed": False,
        }
        for name, work_of in todo.items():
            parts.append(_measured(name, work_of, folder))
            sys.stderr.write(f"{parts[-1]}\n")
            result["passed"] = len(parts) == len(todo) and not parts[-1]["exit_code"]
            path = machines.write(out, "full-size", result)  # each time: the next may be killed
            if parts[-1]["exit_code"]:
                break
    sys.stderr.write(f"{path} is written\n")
    return bool(result["passed"])


def _measured(name: str, work: Callable[[], Any], folder: Path) -> dict[str, Any]:
    """What a part gives, its seconds, and its peak of host memory, in a process of its own."""
    answer = folder / f"{name}.json"
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            answer.write_text(json.dumps(work()), encoding="utf-8")
            code = 0
        except BaseException as error:
            sys.stderr.write(f"{name}: {error!r}\n")
        finally:
            sys.stderr.flush()
            os._exit(code)
    _, status, used = os.wait4(child, 0)
    return {
        "part": name,
        "seconds": round(time.monotonic() - began, 2),
        "peak_rss_mib": round(used.ru_maxrss / 1024),
        "exit_code": os.waitstatus_to_exitcode(status),
        "gave": json.loads(answer.read_text(encoding="utf-8")) if answer.exists() else None,
    }


def _fetch(folder: Path, ledger: Path) -> None:
    """Fetches the base as a rehearsal does, and writes a calibration record by hand."""
    from forge import ledger as ledgers
    from forge import pipeline
    from forge.calibration import decided, record
    from forge.core.store import Store
    from forge.inputs import fetch
    from forge.recipes import recipe

    job = fetch.choose(
        pipeline.Job(
            recipe=recipe.find(VARIANT),
            store=Store(folder / "store"),
            rehearsal=True,
            base=folder / "base",
            level="structure",
        )
    )
    results = pipeline.run(job, until="fetch")
    plan = pipeline.work_on(job, results).checkpoint.plan

    def by_hand(out: Path) -> None:
        origin = {"device": "a hand", "calibration_sha256": decided.digest(job.recipe, plan)}
        record.write(out / record.FILE, dict.fromkeys(plan.calibrated, 8.0), origin)

    none: dict[str, Any] = {
        "parameters": {}, "needs": {}, "code": "0" * 64, "distributions": {}, "system": {},
    }  # fmt: skip
    results["calibrate"] = job.store.make("calibrate", "by-hand", by_hand, none)
    ledgers.write(ledger, job, results)


def _step(ledger: Path, step: str) -> dict[str, Any]:
    """Runs a step of the project; the bytes that it left, and how many checks it made."""
    from forge import ledger as ledgers
    from forge import pipeline
    from forge.manifest import document
    from forge.manifest.names import VERIFICATION
    from forge.manifest.verification import Report

    job, given = ledgers.read(ledger)
    results = pipeline.run(job, until=step, given=given)
    ledgers.write(ledger, job, results)
    files = results[step].files
    if step == "verify":
        return {"checks": len(document.read(Report, files / VERIFICATION).checks)}
    return {"bytes": sum(path.stat().st_size for path in files.rglob("*") if path.is_file())}


def _generate(ledger: Path, settings: Path | None, log: Path) -> dict[str, Any]:
    """Loads the result in vLLM, with its MTP head, and generates."""
    from assay.serving import engine, own, smoke
    from forge import ledger as ledgers

    job, results = ledgers.read(ledger)
    checkpoint, serve = results["dress"].files, job.recipe.serve
    fitted = smoke.fit(checkpoint, serve, None if settings is None else own.read(settings))
    began = time.monotonic()
    server = engine.serve(
        checkpoint,
        fitted.args,
        env=fitted.env,
        speculative_tokens=serve.speculative_tokens,
        log=log,
    )
    with server as started:
        client = started.ready()
        ready = time.monotonic()
        answer = client.completion(smoke.PROMPTS[0], max_tokens=TOKENS, ignore_eos=True)
        seconds = time.monotonic() - ready
        used = machines.gpu("memory.used")
    loaded = LOADED.search(log.read_text(encoding="utf-8", errors="replace"))
    tokens = answer["usage"]["completion_tokens"]
    if tokens != TOKENS:
        raise ValueError(f"{tokens} tokens were generated, not {TOKENS}")
    return {
        "startup_seconds": round(ready - began, 1),
        "tokens": tokens,
        "generation_seconds": round(seconds, 2),
        "weights_gib": float(loaded[1]) if loaded else None,
        "gpu_mib_while_serving": None if used is None else int(used),
        "args": dict(fitted.args),
        "adaptations": list(fitted.adaptations),
    }
