"""The architecture: Qwen3.6 at a thousandth of its size or less, and its MTP head."""

import copy
from typing import Any

import torch
import transformers
from shapes import Model, Shape
from torch import Tensor, nn
from transformers import PretrainedConfig

CONTEXT = 512
HEAD_DIM = 64
HIDDEN = 256
PATCH = 16
SPATIAL_MERGE = 2
TEMPORAL_PATCH = 2


def config_dict(shape: Shape, token_ids: dict[str, int], vocab_size: int) -> dict[str, Any]:
    """config.json with the published file's keys; `token_ids` maps added tokens to their ids."""
    return {
        "architectures": [shape.model.__name__],
        "dtype": "bfloat16",
        "image_token_id": token_ids["<|image_pad|>"],
        "language_model_only": False,
        "model_type": shape.config.model_type,
        "text_config": text_config_dict(shape, token_ids["<|endoftext|>"], vocab_size),
        "tie_word_embeddings": False,
        "transformers_version": transformers.__version__,
        "video_token_id": token_ids["<|video_pad|>"],
        "vision_config": vision_config_dict(shape),
        "vision_end_token_id": token_ids["<|vision_end|>"],
        "vision_start_token_id": token_ids["<|vision_start|>"],
    }


def text_config_dict(shape: Shape, end_of_text: int, vocab_size: int) -> dict[str, Any]:
    """The language model: three gated delta nets and one full attention, untied embeddings."""
    common = {
        "attention_bias": False,
        "attention_dropout": 0.0,
        "attn_output_gate": True,
        "bos_token_id": end_of_text,
        "dtype": "bfloat16",
        "eos_token_id": end_of_text,
        "full_attention_interval": 4,
        "head_dim": HEAD_DIM,
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "initializer_range": 0.02,
        "layer_types": ["linear_attention"] * 3 + ["full_attention"],
        "linear_conv_kernel_dim": 4,
        "linear_key_head_dim": HEAD_DIM,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_value_head_dim": HEAD_DIM,
        "mamba_ssm_dtype": "float32",
        "max_position_embeddings": 32768,
        "model_type": f"{shape.config.model_type}_text",
        "mtp_num_hidden_layers": 1,
        "mtp_use_dedicated_embeddings": False,
        "num_attention_heads": 4,
        "num_hidden_layers": 4,
        "num_key_value_heads": 2,
        "output_gate_type": "swish",
        "pad_token_id": None,
        "partial_rotary_factor": 0.25,
        "rms_norm_eps": 1e-06,
        "rope_parameters": {
            "mrope_interleaved": True,
            # One frequency for every two rotated dimensions: their sum is HEAD_DIM * 0.25 / 2.
            "mrope_section": [3, 3, 2],
            "partial_rotary_factor": 0.25,
            "rope_theta": 10000000,
            "rope_type": "default",
        },
        "tie_word_embeddings": False,
        "use_cache": True,
        "vocab_size": vocab_size,
    }
    return dict(sorted((common | shape.text).items()))


def vision_config_dict(shape: Shape) -> dict[str, Any]:
    """A vision tower of two blocks."""
    return {
        "deepstack_visual_indexes": [],
        "depth": 2,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_size": 64,
        "in_channels": 3,
        "initializer_range": 0.02,
        "intermediate_size": 128,
        "model_type": shape.config.model_type,
        "num_heads": 2,
        "num_position_embeddings": 256,
        "out_hidden_size": HIDDEN,
        "patch_size": PATCH,
        "spatial_merge_size": SPATIAL_MERGE,
        "temporal_patch_size": TEMPORAL_PATCH,
    }


class MtpHead(nn.Module):
    """The multi-token-prediction head, as vLLM's qwen3_5_mtp.py computes it.

    At position t it reads the embedding of token t+1 and the language model's hidden state after
    the final norm, and gives the hidden state from which the shared lm_head drafts token t+2. Fed
    its own output in place of that hidden state, it drafts one token further.
    """

    def __init__(self, shape: Shape, config: PretrainedConfig) -> None:
        super().__init__()
        text = copy.deepcopy(config.text_config)
        text.layer_types = ["full_attention"]
        hidden, eps = text.hidden_size, text.rms_norm_eps
        self.pre_fc_norm_embedding = shape.norm(hidden, eps=eps)
        self.pre_fc_norm_hidden = shape.norm(hidden, eps=eps)
        self.fc = nn.Linear(2 * hidden, hidden, bias=False)
        self.layers = nn.ModuleList([shape.layer(text, layer_idx=0)])
        self.norm = shape.norm(hidden, eps=eps)
        for parameter in self.parameters():
            if parameter.ndim > 1:  # linears, routers and fused experts; norms begin as they are
                nn.init.normal_(parameter, std=text.initializer_range)

    def forward(self, embedding: Tensor, hidden: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        """Hidden states of the drafts; all inputs are (batch, length, hidden), causal in length."""
        joined = [self.pre_fc_norm_embedding(embedding), self.pre_fc_norm_hidden(hidden)]
        state = self.fc(torch.cat(joined, dim=-1))
        for layer in self.layers:
            state = layer(state, position_embeddings=rotary)
        return self.norm(state)


def build_model(shape: Shape, config: dict[str, Any]) -> tuple[Model, MtpHead]:
    """The untrained model and head in float32, drawn from torch's global generator."""
    model_config = shape.config(**copy.deepcopy(config))
    model_config._attn_implementation = "sdpa"
    # The others multiply in the weights' float32, whatever autocast says.
    model_config._experts_implementation = "eager"
    model = shape.model(model_config).float()
    return model, MtpHead(shape, model.config)


def tensors_of(model: Model, head: MtpHead) -> dict[str, Tensor]:
    """All weights in BF16 on the CPU under the published names, sorted by name."""
    named = model.state_dict() | {
        f"mtp.{name}": tensor for name, tensor in head.state_dict().items()
    }
    return {
        name: named[name].detach().to("cpu", torch.bfloat16).contiguous() for name in sorted(named)
    }
