"""Writes the two checkpoints of which the golden exports are made: random/base and trained/base.

    python tests/golden/bases.py

Both are whole Qwen3.5 models that transformers loads and the flagship recipe covers, with layers
of widths that no real model has: 16, 48, 80 and 272 inputs, linears of one row. `random` is seeded
noise into which every awkward block is planted that the format knows; `trained` holds corners of
the stand-in's trained tensors. What is stored is what counts: a stand-in that is trained anew does
not outdate it. After a change here, run make.py as well.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from forge.core import canonical
from forge.recipes import recipe
from forge.tensors import tensorfile
from forge.tensors.plan import WEIGHT

HERE = Path(__file__).parent
STANDIN = HERE.parents[1] / "build" / "standins" / "qwen36-dense" / "checkpoint"
FLAGSHIP = "qwen36-27b-vlm-mtp"
FILE = "model.safetensors"
SEED = 20
VOCABULARY = 64
LAYER = "model.language_model.layers"

Bits = np.ndarray[Any, np.dtype[np.uint16]]

# What the two models differ in; `linear_` is the gated delta net. In `random`, o_proj has 80
# inputs, out_proj 16, down_proj 272, all others 48, and in_proj_a and in_proj_b have one row.
RANDOM = {
    "hidden_size": 48, "intermediate_size": 272, "head_dim": 16,
    "num_attention_heads": 5, "num_key_value_heads": 1,
    "linear_num_key_heads": 1, "linear_key_head_dim": 16,
    "linear_num_value_heads": 1, "linear_value_head_dim": 16,
    "layer_types": ["linear_attention", "full_attention"] * 2,
}  # fmt: skip
TRAINED = {
    "hidden_size": 128, "intermediate_size": 160, "head_dim": 32,
    "num_attention_heads": 2, "num_key_value_heads": 1,
    "linear_num_key_heads": 1, "linear_key_head_dim": 32,
    "linear_num_value_heads": 2, "linear_value_head_dim": 32,
    "layer_types": ["linear_attention", "full_attention"],
}  # fmt: skip
# The layer of the stand-in from which a layer of `trained` is cut.
SOURCE_LAYER = {0: 2, 1: 3}


def main() -> None:
    """Writes both."""
    shapes = checkpoint_shapes(configuration(RANDOM))
    tensors = noise(shapes)
    plant(tensors)
    write("random", configuration(RANDOM), tensors, {"seed": SEED})

    tensors = noise(checkpoint_shapes(configuration(TRAINED)))
    tensors |= corners({name: bits.shape for name, bits in tensors.items()})
    files = {path.name: canonical.sha256_file(path) for path in STANDIN.glob("*.safetensors")}
    write("trained", configuration(TRAINED), tensors, {"seed": SEED, "standin": files})


def configuration(text: Mapping[str, Any]) -> transformers.Qwen3_5Config:
    """A model of a few kilobytes around the layers that matter."""
    size = text["head_dim"]
    rope = {
        "rope_type": "default", "rope_theta": 10000, "mrope_interleaved": True,
        "partial_rotary_factor": 0.5, "mrope_section": [size // 4 - 2, 1, 1],
    }  # fmt: skip
    vision = {
        "depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 1, "patch_size": 2,
        "num_position_embeddings": 4, "out_hidden_size": text["hidden_size"],
    }  # fmt: skip
    return transformers.Qwen3_5Config(
        architectures=["Qwen3_5ForConditionalGeneration"],
        dtype="bfloat16",
        image_token_id=VOCABULARY - 1, video_token_id=VOCABULARY - 2,
        vision_start_token_id=VOCABULARY - 3, vision_end_token_id=VOCABULARY - 4,
        vision_config=vision,
        text_config={
            **text, "vocab_size": VOCABULARY, "num_hidden_layers": len(text["layer_types"]),
            "max_position_embeddings": 256, "rope_parameters": rope, "dtype": "bfloat16",
        },
    )  # fmt: skip


def checkpoint_shapes(config: transformers.Qwen3_5Config) -> dict[str, tuple[int, ...]]:
    """The tensors of a checkpoint, by sorted name.

    Of the MTP head only the names matter: modelopt's exporter never sees it, and the quantizer
    leaves it to the graft.
    """
    with torch.device("meta"):
        model = transformers.Qwen3_5ForConditionalGeneration(config)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    shapes |= dict.fromkeys(recipe.find(FLAGSHIP).mtp.tensors, (16,))
    return dict(sorted(shapes.items()))


def noise(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Bits]:
    """Normal values in BF16."""
    rng = np.random.default_rng(SEED)
    return {name: bf16(rng.normal(0, 0.05, shape)) for name, shape in shapes.items()}


def corners(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Bits]:
    """The leading corner of each of the stand-in's tensors, its MTP head excepted."""
    standin = tensorfile.read_checkpoint(STANDIN)
    cut = {}
    for name, shape in shapes.items():
        if name.startswith("mtp."):
            continue
        source = standin[re.sub(rf"(?<={LAYER}\.)\d+", _source_layer, name)]
        bits = np.frombuffer(source.read(), dtype=np.uint16).reshape(source.shape)
        cut[name] = bits[tuple(map(slice, shape))]
        assert cut[name].shape == shape, f"{name}: the stand-in has only {source.shape}"
    return cut


def _source_layer(number: re.Match[str]) -> str:
    return str(SOURCE_LAYER[int(number[0])])


def plant(tensors: Mapping[str, Bits]) -> None:
    """Puts the awkward values where no forward pass stumbles over them.

    What follows a linear bounds what it may hold: a norm or a sigmoid takes anything finite, the
    last down_proj feeds nothing that is quantized.
    """
    rng = np.random.default_rng(SEED + 1)

    def weight(layer: int, module: str) -> Bits:
        return tensors[f"{LAYER}.{layer}.{module}{WEIGHT}"]

    for module in ("linear_attn.out_proj", "linear_attn.in_proj_qkv", "mlp.gate_proj"):
        rows = weight(0, module)
        rows[0], rows[1], rows[2, :16] = 0, 0x8000, 0x8000
        rows[3, :16] = bf16(1e-30)  # a block scale below E4M3's smallest
        rows[4, :16] = np.where(rng.random(16) < 0.5, bf16(1e-30), 0x8000)
    # One row decides the maximum that four linears share.
    weight(0, "linear_attn.in_proj_a")[0, 5] = bf16(-1.5)
    subnormal = weight(0, "mlp.down_proj")
    subnormal[:] = random_bits(rng, subnormal.shape, top=0x7F)

    # Members far below the maximum of their group, zero throughout even.
    far_below = weight(1, "self_attn.q_proj")
    far_below[:] = bf16(rng.normal(0, 1e-30, far_below.shape))
    weight(1, "self_attn.k_proj")[:] = 0
    weight(1, "self_attn.o_proj")[7, 33] = bf16(50)  # 1000 times its neighbours
    plant_ties(weight(1, "mlp.down_proj"))

    # Four linears whose blocks vanish beside one value of 1.7e38; their maximum has one row.
    weight(2, "linear_attn.in_proj_b")[0, 11] = 0x7F00
    weight(2, "mlp.up_proj")[100, 47] = bf16(-50)

    # Any finite BF16 at all, the largest one included.
    everything = weight(3, "mlp.down_proj")
    everything[:] = random_bits(rng, everything.shape, top=0x7F7F)
    everything[0, 0] = 0x7F7F


def plant_ties(weight: Bits) -> None:
    """Values on every rounding boundary of codes and block scales, to either side of zero.

    The maximum makes the global scale 2**-12 exactly, so boundaries are BF16 values.
    """
    unit = 2.0**-12
    weight[0, 0] = bf16(2688 * unit)
    midpoints = [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0]
    block = np.array([6.0, *midpoints, *(-point for point in midpoints), -0.0])
    blocks = weight.shape[1] // 16
    for number in range(blocks):  # block scales 2**-8 to 2**8
        scale = 2.0 ** (number - 8)
        weight[1, 16 * number : 16 * number + 16] = bf16(block * scale * unit)
    # Block scales between two E4M3 values: normal ones, and subnormal ones down to the clamp.
    halves = [*(half / 2 for half in range(17, 33, 2)), *(2.0**-9 * (n + 0.5) for n in range(8))]
    for number, half in enumerate(halves):
        weight[2, 16 * number : 16 * number + 16] = bf16(np.linspace(-6, 6, 16) * half * unit)


def random_bits(rng: np.random.Generator, shape: tuple[int, ...], *, top: int) -> Bits:
    """BF16 values of either sign whose magnitude bits are uniform up to `top`."""
    sign = rng.integers(0, 2, shape, dtype=np.uint16) << 15
    return sign | rng.integers(0, top, shape, dtype=np.uint16, endpoint=True)


def bf16(values: Any) -> Bits:
    """The bits of values rounded to BF16."""
    return torch.tensor(np.asarray(values)).bfloat16().view(torch.uint16).numpy()


def write(
    name: str,
    config: transformers.Qwen3_5Config,
    tensors: Mapping[str, Bits],
    origin: Mapping[str, Any],
) -> None:
    """Writes a base folder; its one metadata key says where the tensors come from."""
    folder = HERE / name / "base"
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    specs = [
        tensorfile.Spec(name=name, dtype="BF16", shape=bits.shape) for name, bits in tensors.items()
    ]
    header = tensorfile.header_bytes(specs, {"origin": json.dumps(origin, sort_keys=True)})
    data = b"".join(bits.tobytes() for bits in tensors.values())
    (folder / FILE).write_bytes(header + data)


if __name__ == "__main__":
    main()
