"""Configs of the families, at the sizes of the stand-ins and of the published models."""

import json
from dataclasses import replace

from forge.inputs import standin
from forge.tensors.family import Config

STANDINS = {"qwen3_5": "qwen36-dense", "qwen3_5_moe": "qwen36-moe"}
# The sizes of Qwen3.6-27B and Qwen3.6-35B-A3B, as published.
PUBLISHED = {
    "qwen3_5": {
        "hidden_size": 5120, "intermediate_size": 17408, "num_hidden_layers": 64,
        "num_attention_heads": 24, "num_key_value_heads": 4, "head_dim": 256,
        "linear_num_key_heads": 16, "linear_num_value_heads": 48, "linear_key_head_dim": 128,
        "linear_value_head_dim": 128, "vocab_size": 248320,
    },
    "qwen3_5_moe": {
        "hidden_size": 2048, "moe_intermediate_size": 512, "shared_expert_intermediate_size": 512,
        "num_experts": 256, "num_experts_per_tok": 8, "num_hidden_layers": 40,
        "num_attention_heads": 16, "num_key_value_heads": 2, "head_dim": 256,
        "linear_num_key_heads": 16, "linear_num_value_heads": 32, "linear_key_head_dim": 128,
        "linear_value_head_dim": 128, "vocab_size": 248320,
    },
}  # fmt: skip
VISION = {
    "depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "num_heads": 16, "patch_size": 16,
    "temporal_patch_size": 2, "spatial_merge_size": 2, "num_position_embeddings": 2304,
    "in_channels": 3,
}  # fmt: skip


def small(model_type: str) -> Config:
    """The config of the stand-in; without its outer half for a language model alone."""
    name = STANDINS[model_type.removesuffix("_text")]
    path = standin.ROOT / name / "checkpoint/config.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    return Config(path=path, data=data["text_config"] if model_type.endswith("_text") else data)


def published(model_type: str) -> Config:
    """The stand-in's config, with the sizes of the published model."""
    config = small(model_type)
    sizes = PUBLISHED[model_type.removesuffix("_text")]
    kinds = ["linear_attention"] * 3 + ["full_attention"]
    text = sizes | {"layer_types": kinds * (sizes["num_hidden_layers"] // 4)}
    if model_type.endswith("_text"):
        return replace(config, data={**config.data, **text})
    vision = VISION | {"out_hidden_size": sizes["hidden_size"]}
    return change(config, text_config=text, vision_config=vision)


def change(config: Config, **parts: dict) -> Config:
    """The config with changed keys in its parts."""
    return replace(
        config, data=config.data | {key: config.data[key] | new for key, new in parts.items()}
    )
