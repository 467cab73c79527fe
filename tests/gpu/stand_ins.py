"""The whole assay of finished rehearsals with the engine of this machine: a result file each."""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from gpu import machines

# Dense as modelopt stores it, experts, and dense as compressed-tensors stores it.
VARIANTS = ("qwen36-27b-vlm-mtp", "qwen36-35b-a3b-nvfp4-fp8-mtp", "qwen36-27b-nvfp4")
LINES = 40  # of what a check says that is broken off


def run(rehearsals: Path, out: Path, engine: Path | None, variants: tuple[str, ...]) -> bool:
    """Checks `rehearsals/<variant>` for each variant; whether all passed."""
    passed = [_check(rehearsals / variant, variant, out, engine) for variant in variants]
    return all(passed)


def _check(folder: Path, variant: str, out: Path, engine: Path | None) -> bool:
    machine, began = machines.facts(), time.monotonic()
    logs = out / "logs" / f"{machine['kind']}-{variant}"
    settings = [] if engine is None else ["--engine", str(engine)]
    with tempfile.TemporaryDirectory() as apart:
        ledger = str(Path(apart, "ledger.json"))
        fetch = ("forge", "fetch", str(folder), ledger, "--store", str(Path(apart, "store")))
        check = ("assay", "check", str(folder), ledger, *settings, "--logs", str(logs))
        logs.mkdir(parents=True, exist_ok=True)
        said = logs / "check.log"
        with said.open("w", encoding="utf-8") as file:
            for command in (fetch, check):
                done = subprocess.run(
                    [sys.executable, "-m", *command],
                    stdout=subprocess.PIPE, stderr=file, encoding="utf-8", check=False,
                )  # fmt: skip
                if done.returncode:
                    break
    report = json.loads(done.stdout) if done.stdout.startswith("{") else None
    result = {
        "variant": variant,
        "machine": machine,
        "seconds": round(time.monotonic() - began, 1),
        "exit_code": done.returncode,
        "report": report,
        # Without a report, the engine has failed, and this is why.
        "said": [] if report else said.read_text(encoding="utf-8").splitlines()[-LINES:],
    }
    sys.stderr.write(f"{machines.write(out, variant, result)} is written\n")
    return done.returncode == 0
