"""How a ModelOpt NVFP4 checkpoint is stored: tensors of a linear, both quantization configs.

What the writer produces and the assay expects is defined here once; engines read it as
`vllm/model_executor/layers/quantization/modelopt.py` does.
"""

from collections.abc import Iterable
from typing import Any

from forge import nvfp4
from forge.rules import WEIGHT
from forge.tensorfile import Spec, Tensor

CONFIG = "config.json"
QUANT_CONFIG = "hf_quant_config.json"
TEMPLATE = "chat_template.jinja"


def quantized_specs(module: str, rows: int, columns: int) -> list[Spec]:
    """The four tensors that stand for an NVFP4 linear, in the order in which they are stored."""
    return [
        Spec(name=f"{module}.weight", dtype="U8", shape=(rows, columns // 2)),
        Spec(name=f"{module}.weight_scale", dtype="F8_E4M3", shape=(rows, columns // nvfp4.BLOCK)),
        Spec(name=f"{module}.weight_scale_2", dtype="F32", shape=()),
        Spec(name=f"{module}.input_scale", dtype="F32", shape=()),
    ]


def ignored_modules(tensors: Iterable[Tensor]) -> list[str]:
    """The modules with a weight of two or more dimensions that is not quantized, sorted.

    Exact names, no patterns: an engine that meets a module which is neither quantized nor listed
    must fail, not guess.
    """
    tensors = list(tensors)
    names = {tensor.name for tensor in tensors}
    return sorted(
        tensor.name.removesuffix(WEIGHT)
        for tensor in tensors
        if tensor.name.endswith(WEIGHT)
        and len(tensor.shape) >= 2
        and f"{tensor.name}_scale" not in names
    )


def quant_config(ignore: list[str]) -> dict[str, Any]:
    """`hf_quant_config.json` in ModelOpt's form, read by SGLang and older vLLM."""
    return {
        "producer": {"name": "hallmark"},
        "quantization": {
            "quant_algo": "NVFP4",
            "kv_cache_quant_algo": None,
            "group_size": nvfp4.BLOCK,
            "exclude_modules": ignore,
        },
    }


def quantization_config(ignore: list[str]) -> dict[str, Any]:
    """`quantization_config` of `config.json` in ModelOpt's form, read first by vLLM."""
    scheme = {"dynamic": False, "num_bits": 4, "type": "float", "group_size": nvfp4.BLOCK}
    return {
        "config_groups": {
            "group_0": {"input_activations": scheme, "weights": scheme, "targets": ["Linear"]}
        },
        "ignore": ignore,
        "quant_algo": "NVFP4",
        "producer": {"name": "hallmark"},
        "quant_method": "modelopt",
    }
