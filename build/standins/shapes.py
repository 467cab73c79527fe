"""The stand-ins as data: the architecture of each, and the settings in which it is its own.

Everything else (depth, heads, vision tower, vocabulary, training) they share; see modeling.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import (
    PretrainedConfig,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3_5MoeConfig,
    Qwen3_5MoeForConditionalGeneration,
)
from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5DecoderLayer, Qwen3_5RMSNorm
from transformers.models.qwen3_5_moe.modeling_qwen3_5_moe import (
    Qwen3_5MoeDecoderLayer,
    Qwen3_5MoeRMSNorm,
)

Model = Qwen3_5ForConditionalGeneration | Qwen3_5MoeForConditionalGeneration


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A stand-in's classes in transformers, and its own part of the language model's settings."""

    config: type[PretrainedConfig]
    model: type[Model]
    layer: type[Qwen3_5DecoderLayer | Qwen3_5MoeDecoderLayer]
    norm: type[Qwen3_5RMSNorm | Qwen3_5MoeRMSNorm]
    text: Mapping[str, Any]


SHAPES = {
    "qwen36-dense": Shape(
        config=Qwen3_5Config,
        model=Qwen3_5ForConditionalGeneration,
        layer=Qwen3_5DecoderLayer,
        norm=Qwen3_5RMSNorm,
        text={"intermediate_size": 512},
    ),
    # A token passes through the shared expert and two of the routed ones: half of the dense width.
    "qwen36-moe": Shape(
        config=Qwen3_5MoeConfig,
        model=Qwen3_5MoeForConditionalGeneration,
        layer=Qwen3_5MoeDecoderLayer,
        norm=Qwen3_5MoeRMSNorm,
        text={
            "mlp_only_layers": [],
            "moe_intermediate_size": 64,
            "num_experts": 8,
            "num_experts_per_tok": 2,
            "router_aux_loss_coef": 0.001,
            "shared_expert_intermediate_size": 128,
        },
    ),
}
