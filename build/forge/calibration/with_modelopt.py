"""Input maxima as modelopt takes them: its input quantizers watch, its exporter is not used."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forge.calibration.batches import Bar, Batch, no_bar
from forge.core.boundary import calling
from forge.core.errors import CalibrationError

if TYPE_CHECKING:
    import torch

    from forge.recipes.recipe import Recipe
    from forge.tensors.checkpoint import Checkpoint


def watch(
    made: "Checkpoint", base: Path, batches: Sequence[Batch], bar: Bar = no_bar, **placed: Any
) -> dict[str, float]:
    """The maxima of those calibrated linears that were reached, by module name.

    Raises:
        CalibrationError: a library does not take the base, or fails at a sample (so noted on what
            it raises: :mod:`forge.core.boundary`).
    """
    import modelopt.torch.quantization as mtq
    import torch

    nvfp4 = {"num_bits": (2, 1), "block_sizes": {-1: 16, "type": "dynamic", "scale_bits": (4, 3)}}
    config = {
        "quant_cfg": [
            {"quantizer_name": "*", "enable": False},
            *(
                {"quantizer_name": f"{module}.input_quantizer", "cfg": nvfp4, "enable": True}
                for module in made.plan.calibrated
            ),
        ],
        "algorithm": "max",
    }
    model = load(made.recipe, base, **placed)
    what = f"{base}: cannot be calibrated"
    with calling("modelopt", CalibrationError, what), torch.inference_mode():
        model = mtq.quantize(model, config, lambda model: _forward(model, batches, bar))
        seen = {
            module: model.get_submodule(module).input_quantizer.amax
            for module in made.plan.calibrated
        }
    return {module: float(amax) for module, amax in seen.items() if amax is not None}


def load(recipe: "Recipe", base: Path, **placed: Any) -> "torch.nn.Module":
    """The base in BF16, on the GPU as far as it fits, then in memory, then on disk (accelerate).

    Raises:
        CalibrationError: transformers does not load it (so noted on what it raises).
    """
    import torch
    import transformers

    what = f"{base}: cannot be loaded as {recipe.architecture}"
    with calling("transformers", CalibrationError, what):
        model = getattr(transformers, recipe.architecture).from_pretrained(
            base,
            dtype=torch.bfloat16,
            attn_implementation=recipe.calibration.attention,
            trust_remote_code=False,
            use_safetensors=True,
            **{"device_map": "auto" if torch.cuda.is_available() else "cpu", **placed},
        )
        return model.eval()


def _forward(model: "torch.nn.Module", batches: Sequence[Batch], bar: Bar) -> None:
    """Runs the samples through the model or its language model, one by one.

    Without the head, which no recipe quantizes: the logits of a long sample take gigabytes.
    """
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    with bar("samples", len(batches)) as advance:
        for batch in batches:
            part = model.get_decoder() if batch.language_model_only else model.base_model
            made, rows = batch.inputs(), "{}-{}".format(*batch.rows)
            what = f"calibration.sets.{batch.set}, rows {rows}: the forward pass fails"
            with calling("torch", CalibrationError, what):
                inputs = {name: tensor.to(device) for name, tensor in made.items()}
                part(**inputs, use_cache=False)
            advance(1)
