"""Step calibrate: forward passes that leave one number a quantized linear.

The only step whose outcome depends on the hardware, so all that could change it is pinned or
recorded: one sample a batch whatever the memory, deterministic algorithms, the attention of the
recipe, PyTorch's own delta rule, every sample's token hash. The libraries watch the inputs: see
`with_modelopt` and `with_llmcompressor`. Their exporters are not used.

What the plan says of the linear layers is among the parameters. Nothing here imports how the plan
is made or how a layer is packed, so a new format or a faster loop leaves a calibration valid.
"""

import importlib
import os
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from forge.calibration import decided, record
from forge.calibration.batches import Bar, Batch, no_bar
from forge.calibration.batches import read as read_batches
from forge.core.errors import CalibrationError

if TYPE_CHECKING:
    from forge.pipeline import Work
    from forge.recipes.recipe import Recipe
    from forge.tensors.checkpoint import Checkpoint
    from forge.tensors.plan import Plan

LOG = "calibrate.log"
# The module that watches, and the library's distribution.
ENGINES = {
    "modelopt": ("forge.calibration.with_modelopt", "nvidia-modelopt"),
    "llm-compressor": ("forge.calibration.with_llmcompressor", "llmcompressor"),
}
# transformers uses these where they are installed; each replaces arithmetic that is pinned here.
FOREIGN_KERNELS = ("fla", "causal_conv1d", "flash_attn")


def parameters(work: "Work") -> dict[str, Any]:
    """The samples, the engine, and of the plan what an engine is told."""
    made = work.checkpoint
    return decided.parameters(work.recipe, made.plan, made.quantization["config_groups"])


def run(work: "Work", out: Path) -> None:
    """Writes the calibration record, and beside it what the libraries had to say.

    Raises:
        CalibrationError: as :func:`calibrate`.
    """
    with (
        (out / LOG).open("w", encoding="utf-8") as log,
        redirect_stdout(log),
        redirect_stderr(log),
    ):
        calibrate(work.checkpoint, work.inputs, out / record.FILE, work.count_bar)


def calibrate(
    made: "Checkpoint", inputs: Path, path: Path, bar: Bar = no_bar, **placed: Any
) -> None:
    """Runs the samples and writes the record.

    Args:
        made: says which samples, through which engine, which linears are watched, and which share
            a maximum.
        inputs: what the fetch step left.
        path: where the record goes.
        bar: shows how many samples have passed.
        placed: where transformers loads the model, if not where it thinks best.

    Raises:
        CalibrationError: a sample does not fit, a linear was reached by no sample, or a maximum
            cannot be one.
    """
    batches = read_batches(made.recipe, inputs)
    with TemporaryDirectory(dir=path.parent, prefix="offloaded-") as folder:
        placed = {"offload_folder": folder, **placed}
        maxima = observe(made, inputs / "base", batches, bar, **placed)
    record.write(path, maxima, _origin(made.recipe, made.plan, batches))


def observe(
    made: "Checkpoint", base: Path, batches: Sequence[Batch], bar: Bar = no_bar, **placed: Any
) -> dict[str, float]:
    """The input maxima of the calibrated linears, by module name.

    Raises:
        CalibrationError: as :func:`merge`.
    """
    _pin_arithmetic()
    module, _ = ENGINES[made.recipe.calibration.engine]
    watch = importlib.import_module(module).watch
    return merge(made.plan, watch(made, base, batches, bar, **placed))


def merge(plan: "Plan", maxima: Mapping[str, float]) -> dict[str, float]:
    """Gives every linear of a group the group's largest input maximum.

    Raises:
        CalibrationError: a linear that no sample reached, or a maximum that cannot be one.
    """
    groups = decided.watched(plan)
    for module in (module for group in groups for module in group):
        if module not in maxima:
            raise CalibrationError(
                f"{module!r}: no sample reached this linear layer, so its input has no "
                "maximum. Take more samples, or have all experts calibrated."
            )
        record.check(module, maxima[module])
    return {module: max(maxima[member] for member in group) for group in groups for module in group}


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


def _origin(recipe: "Recipe", plan: "Plan", batches: Sequence[Batch]) -> dict[str, Any]:
    """What the record says of itself; it names no variant, because several may share it."""
    import torch

    wanted = recipe.calibration
    _, distribution = ENGINES[wanted.engine]
    return {
        "calibration_sha256": decided.digest(recipe, plan),
        "engine": {"name": wanted.engine, "version": version(distribution)},
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "kernels": {"attention": wanted.attention, "delta_rule": "torch"},
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else _cpu_name(),
        "threads": torch.get_num_threads(),
        "samples": [batch.origin() for batch in batches],
    }


def _cpu_name() -> str:
    """The processor's model as the kernel names it, with the vector unit that torch uses."""
    import torch

    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else 'unknown CPU'}, {torch.backends.cpu.get_cpu_capability()}"
