"""Step calibrate: forward passes that leave one number a quantized linear.

The only step whose outcome depends on the hardware, so all that could change it is pinned or
recorded: one sample a batch whatever the memory, deterministic algorithms, the attention of the
recipe, PyTorch's own delta rule, every sample's token hash. modelopt watches the inputs; its
exporter is not used.
"""

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forge import canonical, console, record, rules, tensorfile
from forge.errors import CalibrationError
from forge.pipeline import Job, Needed
from forge.recipe import Recipe
from forge.rules import Plan

if TYPE_CHECKING:
    import torch

LOG = "calibrate.log"
# transformers uses these where they are installed; each replaces arithmetic that is pinned here.
FOREIGN_KERNELS = ("fla", "causal_conv1d", "flash_attn")


def parameters(job: Job, needed: Needed) -> dict[str, Any]:  # noqa: ARG001
    """The samples, the engine and which linears are watched."""
    return {
        "architecture": job.recipe.architecture,
        "calibration": job.recipe.calibration.model_dump(mode="json"),
        "quantize": [rule.model_dump(mode="json") for rule in job.recipe.quantize],
    }


def run(job: Job, needed: Needed, out: Path) -> None:
    """Writes the calibration record, and beside it what the libraries had to say."""
    inputs = needed["fetch"].files
    plan = rules.plan(job.recipe, tensorfile.read_checkpoint(inputs / "base"))
    with (out / LOG).open("w") as log, redirect_stdout(log), redirect_stderr(log):
        _pin_arithmetic()
        samples = _tokenize(job.recipe, inputs)
        model = _load(job.recipe, inputs / "base")
        maxima = _watch(model, plan, samples)
        record.write(out / record.FILE, maxima, _origin(job.recipe, model, samples))


def merge(plan: Plan, maxima: Mapping[str, float]) -> dict[str, float]:
    """Gives every linear of a group the group's largest input maximum.

    Raises:
        CalibrationError: a linear that no sample reached, or a maximum that is no positive number.
    """
    for module in plan.quantized:
        record.check(module, maxima.get(module, 0.0))
    return {
        module: max(maxima[member] for member in group) for group in plan.groups for module in group
    }


def _pin_arithmetic() -> None:
    """Asks for the same arithmetic in every run on the same device.

    Raises:
        CalibrationError: a package is installed that would replace a kernel behind our back.
    """
    import importlib.util

    import torch

    for package in FOREIGN_KERNELS:
        if importlib.util.find_spec(package):
            raise CalibrationError(
                f"the package {package!r} is installed and would replace PyTorch's own kernels; "
                "calibrate in the environment that lockfiles/build.txt makes."
            )
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # cuBLAS is deterministic only with it
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(mode=True)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False


def _tokenize(recipe: Recipe, inputs: Path) -> list[list[int]]:
    """The token ids of each sample, set by set, cut to the set's length."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(inputs / "base", trust_remote_code=False)
    every = []
    for name, wanted in recipe.calibration.sets.items():
        path = inputs / "calibration" / name / "samples.jsonl"
        samples = []
        for line in path.read_text(encoding="utf-8").splitlines():
            messages = json.loads(line)["messages"]
            if wanted.chat_template:
                text = tokenizer.apply_chat_template(messages, tokenize=False)
            else:
                text = "\n\n".join(message["content"] for message in messages)
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            samples.append(ids[: wanted.max_tokens])
        if len(samples) != wanted.samples or not all(samples):
            raise CalibrationError(
                f"{path} has {len(samples)} samples, {sum(not ids for ids in samples)} of them "
                f"empty; the recipe wants {wanted.samples}."
            )
        every += samples
    return every


def _load(recipe: Recipe, base: Path) -> "torch.nn.Module":
    """The base in BF16, on the GPU as far as it fits (accelerate offloads the rest)."""
    import torch
    import transformers

    model_class = getattr(transformers, recipe.architecture)
    model = model_class.from_pretrained(
        base,
        dtype=torch.bfloat16,
        attn_implementation=recipe.calibration.attention,
        device_map="auto" if torch.cuda.is_available() else "cpu",
        trust_remote_code=False,
        use_safetensors=True,
    )
    return model.eval()


def _watch(model: "torch.nn.Module", plan: Plan, samples: Sequence[list[int]]) -> dict[str, float]:
    """Runs the samples one by one and reads what modelopt's input quantizers saw."""
    import modelopt.torch.quantization as mtq
    import torch

    nvfp4 = {"num_bits": (2, 1), "block_sizes": {-1: 16, "type": "dynamic", "scale_bits": (4, 3)}}
    config = {
        "quant_cfg": [
            {"quantizer_name": "*", "enable": False},
            *(
                {"quantizer_name": f"{module}.input_quantizer", "cfg": nvfp4, "enable": True}
                for module in plan.quantized
            ),
        ],
        "algorithm": "max",
    }

    def forward(model: "torch.nn.Module") -> None:
        device = next(model.parameters()).device
        with console.count_bar("samples", len(samples)) as advance:
            for ids in samples:
                model(input_ids=torch.tensor([ids], device=device), use_cache=False)
                advance(1)

    with torch.inference_mode():
        model = mtq.quantize(model, config, forward)
    maxima = {}
    for module in plan.quantized:
        amax = model.get_submodule(module).input_quantizer.amax
        maxima[module] = float(amax) if amax is not None else 0.0
    return merge(plan, maxima)


def _origin(recipe: Recipe, model: "torch.nn.Module", samples: list[list[int]]) -> dict[str, Any]:
    """What the record says of itself."""
    import torch

    on_gpu = torch.cuda.is_available()
    return {
        "recipe": recipe.name,
        "recipe_sha256": canonical.sha256_text(recipe.model_dump_json()),
        "engine": {"name": recipe.calibration.engine, "version": version("nvidia-modelopt")},
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "kernels": {
            "attention": model.config._attn_implementation,
            "delta_rule": "torch",
        },
        "device": torch.cuda.get_device_name() if on_gpu else _cpu_name(),
        "threads": torch.get_num_threads(),
        "samples": [
            {"tokens": len(ids), "sha256": canonical.sha256_text(canonical.dumps(ids))}
            for ids in samples
        ],
    }


def _cpu_name() -> str:
    """The processor's model as the kernel names it, with the vector unit that torch uses."""
    import torch

    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else 'unknown CPU'}, {torch.backends.cpu.get_cpu_capability()}"
