"""The largest magnitude that reaches each linear, as the libraries' own observers see it.

Each function takes a model, the linears to watch, and what runs the forward passes; it returns
the maxima of those linears that were reached, by module name.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

Forward = Callable[["torch.nn.Module"], None]


def load(architecture: str, base: Path, attention: str, **options: Any) -> "torch.nn.Module":
    """The base in BF16, every expert a module of its own.

    It lies on the GPU as far as it fits, then in memory, then on disk (accelerate offloads).
    """
    import torch
    import transformers
    from llmcompressor.modeling.moe.linearize import load_quantizable_moe

    kind = getattr(transformers, architecture)
    placed = {"device_map": "auto" if torch.cuda.is_available() else "cpu", **options}
    with ExitStack() as stack:
        if "Moe" in architecture:
            stack.enter_context(load_quantizable_moe(kind))
        model = kind.from_pretrained(
            base,
            dtype=torch.bfloat16,
            attn_implementation=attention,
            trust_remote_code=False,
            use_safetensors=True,
            **placed,
        )
    return model.eval()


def modelopt(
    model: "torch.nn.Module",
    modules: Sequence[str],
    forward: Forward,
    *,
    all_experts: bool,  # noqa: ARG001 - modelopt's recipes are of dense models
) -> dict[str, float]:
    """Modelopt's input quantizers, calibrated with its `max` algorithm."""
    import modelopt.torch.quantization as mtq

    nvfp4 = {"num_bits": (2, 1), "block_sizes": {-1: 16, "type": "dynamic", "scale_bits": (4, 3)}}
    config = {
        "quant_cfg": [
            {"quantizer_name": "*", "enable": False},
            *(
                {"quantizer_name": f"{module}.input_quantizer", "cfg": nvfp4, "enable": True}
                for module in modules
            ),
        ],
        "algorithm": "max",
    }
    model = mtq.quantize(model, config, forward)
    seen = {module: model.get_submodule(module).input_quantizer.amax for module in modules}
    return {module: float(amax) for module, amax in seen.items() if amax is not None}


def llmcompressor(
    model: "torch.nn.Module", modules: Sequence[str], forward: Forward, *, all_experts: bool
) -> dict[str, float]:
    """llm-compressor's input observers, in the contexts in which `oneshot` runs its samples.

    The preset NVFP4 observes inputs with `static_minmax`; `oneshot` makes its rounded
    `input_global_scale` of the same two numbers.
    """
    from compressed_tensors.quantization import preset_name_to_scheme
    from llmcompressor.modeling.moe.context import moe_calibration_context
    from llmcompressor.modeling.offset_norm import norm_calibration_context
    from llmcompressor.modifiers.quantization.calibration import (
        calibrate_input_hook,
        initialize_observer,
    )
    from llmcompressor.utils.helpers import calibration_forward_context

    watched = {module: model.get_submodule(module) for module in modules}
    for linear in watched.values():
        linear.quantization_scheme = preset_name_to_scheme("NVFP4", ["Linear"])
        initialize_observer(linear, "input")
        linear.register_forward_pre_hook(calibrate_input_hook)
    with ExitStack() as stack:
        stack.enter_context(norm_calibration_context(model))
        stack.enter_context(calibration_forward_context(model))
        if all_experts:
            stack.enter_context(moe_calibration_context())
        forward(model)
    observers = {module: linear.input_observer for module, linear in watched.items()}
    return {
        module: max(-float(observer.min_vals.min()), float(observer.max_vals.max()))
        for module, observer in observers.items()
        if observer.has_statistics
    }


ENGINES = {"modelopt": modelopt, "llm-compressor": llmcompressor}
DISTRIBUTIONS = {"modelopt": "nvidia-modelopt", "llm-compressor": "llmcompressor"}
