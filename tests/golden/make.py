"""Makes the golden exports of random/base and trained/base with modelopt itself.

    python tests/golden/make.py     (in the build environment, on a machine with an NVIDIA GPU)

Each base is loaded by transformers, quantized by mtq.quantize and written by modelopt's
export_hf_checkpoint; nothing of Hallmark's arithmetic takes part, only its recipe, which says
which linears are quantized. Beside an export lies the calibration record: each linear's largest
input as its own quantizer saw it. All is done twice, in processes of their own, and kept only if
both came to the same bytes; golden.json says so.
"""

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import modelopt.torch.quantization as mtq
import numpy as np
import torch
import transformers
from bases import FILE, FLAGSHIP, HERE
from modelopt.torch.export import export_hf_checkpoint

from forge.calibration import record
from forge.core import canonical
from forge.recipes import recipe
from forge.tensors import tensorfile
from forge.tensors.plan import make_plan

MODELS = ("random", "trained")
EXPORT = f"export/{FILE}"
SEED = 21
SAMPLES, TOKENS = 4, 32


def main() -> None:
    """Runs everything twice, compares, and stores the first run's files."""
    parser = argparse.ArgumentParser(description="Make the golden exports.")
    parser.add_argument("--run", type=Path, help="make one run's files in this folder, no more")
    run_only: Path | None = parser.parse_args().run
    if run_only:
        run(run_only)
        return
    if not torch.cuda.is_available():
        sys.exit("modelopt computes other bytes on a CPU; run this on a machine with an NVIDIA GPU")
    with tempfile.TemporaryDirectory() as folder:
        runs = [Path(folder, number) for number in ("1", "2")]
        for number in runs:
            subprocess.run([sys.executable, __file__, "--run", number], check=True)
        digests = [
            {file: canonical.sha256_file(number / file) for file in files()} for number in runs
        ]
        canonical.write(HERE / "golden.json", {**origin(), "runs": digests})
        if digests[0] != digests[1]:
            sys.exit(f"the two runs differ, nothing was stored: {digests}")
        for file in files():
            (HERE / file).parent.mkdir(exist_ok=True)
            shutil.copyfile(runs[0] / file, HERE / file)


def files() -> list[str]:
    """What a run makes."""
    return [f"{model}/{file}" for model in MODELS for file in (EXPORT, record.FILE)]


def origin() -> dict[str, Any]:
    """What was run, on what, from which bases."""
    packages = ("nvidia-modelopt", "torch", "transformers", "safetensors")
    return {
        "device": torch.cuda.get_device_name(),
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "packages": {package: version(package) for package in packages},
        "calibration": {"seed": SEED, "samples": SAMPLES, "tokens": TOKENS},
        "bases": {model: canonical.sha256_file(HERE / model / "base" / FILE) for model in MODELS},
    }


def run(out: Path) -> None:
    """Quantizes and exports every base."""
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # cuBLAS is deterministic only with it
    torch.use_deterministic_algorithms(mode=True)
    for name in MODELS:
        plan = make_plan(recipe.find(FLAGSHIP), tensorfile.read_checkpoint(HERE / name / "base"))
        model = load(HERE / name / "base")
        with torch.inference_mode():
            mtq.quantize(model, quantizers(plan.quantized), calibrate)
        maxima = {
            module: float(model.get_submodule(module).input_quantizer.amax)
            for module in plan.quantized
        }
        export_hf_checkpoint(model, export_dir=(out / name / EXPORT).parent)
        record.write(out / name / record.FILE, maxima, {"golden": name})


def load(base: Path) -> torch.nn.Module:
    """A base as BF16 on the GPU."""
    model = transformers.Qwen3_5ForConditionalGeneration.from_pretrained(
        base, dtype=torch.bfloat16, attn_implementation="sdpa", use_safetensors=True
    )
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu")


def quantizers(modules: tuple[str, ...]) -> dict[str, Any]:
    """The NVFP4 preset of modelopt for the weights and inputs of `modules` alone."""
    preset = {entry["quantizer_name"]: entry for entry in mtq.NVFP4_DEFAULT_CFG["quant_cfg"]}
    return {
        "quant_cfg": [
            {"quantizer_name": "*", "enable": False},
            *(
                {
                    "quantizer_name": f"{module}.{which}",
                    "cfg": preset[f"*{which}"]["cfg"],
                    "enable": True,
                }
                for module in modules
                for which in ("weight_quantizer", "input_quantizer")
            ),
        ],
        "algorithm": "max",
    }


def calibrate(model: torch.nn.Module) -> None:
    """Shows seeded text tokens to the model; the four special tokens are the vocabulary's last."""
    rng = np.random.default_rng(SEED)
    top = model.config.text_config.vocab_size - 4
    for _ in range(SAMPLES):
        ids = torch.from_numpy(rng.integers(0, top, (1, TOKENS)))
        model(input_ids=ids.to(model.device), use_cache=False)


if __name__ == "__main__":
    main()
