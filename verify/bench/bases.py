"""What is quantized in the benchmark: full-width layers of Qwen3.6-27B with random weights."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from forge.core import canonical
from forge.core.files import sha256_of
from forge.recipes import recipe
from forge.tensors import tensor_list, tensorfile
from forge.tensors.tensor_list import Arriving
from forge.tensors.tensorfile import INDEX, Spec

VARIANT = "qwen36-27b-vlm-mtp"
HIDDEN, WIDE, VOCABULARY = 5120, 17408, 248_320
SHARD_BYTES = 4_000_000_000
DIGESTS = "digests.json"
_TILE = 16 << 20


def layer_shapes(number: int) -> dict[str, tuple[int, ...]]:
    """The tensors of one layer of the 27B; every fourth has full attention."""
    prefix = f"model.language_model.layers.{number}"
    parts: dict[str, tuple[int, ...]] = {
        "input_layernorm": (HIDDEN,),
        "post_attention_layernorm": (HIDDEN,),
        "mlp.gate_proj": (WIDE, HIDDEN),
        "mlp.up_proj": (WIDE, HIDDEN),
        "mlp.down_proj": (HIDDEN, WIDE),
    }
    if number % 4 == 3:
        heads = {"q": 2 * 24, "k": 4, "v": 4}  # the query carries the output gate
        parts |= {f"self_attn.{n}_proj": (256 * count, HIDDEN) for n, count in heads.items()}
        parts |= {"self_attn.o_proj": (HIDDEN, 24 * 256)}
        parts |= {f"self_attn.{n}_norm": (256,) for n in ("q", "k")}
        return {f"{prefix}.{name}.weight": shape for name, shape in parts.items()}
    rows = {"qkv": 10_240, "z": 6144, "a": 48, "b": 48}
    parts |= {f"linear_attn.in_proj_{name}": (count, HIDDEN) for name, count in rows.items()}
    parts |= {
        "linear_attn.out_proj": (HIDDEN, 6144),
        "linear_attn.conv1d": (10_240, 1, 4),
        "linear_attn.norm": (128,),
    }
    shapes = {f"{prefix}.{name}.weight": shape for name, shape in parts.items()}
    return shapes | {f"{prefix}.linear_attn.{name}": (48,) for name in ("A_log", "dt_bias")}


def base_shapes(layers: int) -> dict[str, tuple[int, ...]]:
    """A base of full-width layers with the embeddings, and one tensor for every other rule."""
    shapes: dict[str, tuple[int, ...]] = {
        "lm_head.weight": (VOCABULARY, HIDDEN),
        "model.language_model.embed_tokens.weight": (VOCABULARY, HIDDEN),
        "model.language_model.norm.weight": (HIDDEN,),
        "model.visual.patch_embed.proj.weight": (1152, 3, 2, 16, 16),
    }
    shapes |= dict.fromkeys(recipe.find(VARIANT).mtp.tensors, (HIDDEN,))
    for number in range(layers):
        shapes |= layer_shapes(number)
    return dict(sorted(shapes.items()))


def mlp_shapes(layers: int) -> dict[str, tuple[int, ...]]:
    """The MLPs of the first layers, and nothing else."""
    return {
        name: shape
        for number in range(layers)
        for name, shape in layer_shapes(number).items()
        if ".mlp." in name
    }


def write_base(folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Writes random BF16 weights in shards, with an index and their digests."""
    folder.mkdir(parents=True)
    shards: list[list[Spec]] = [[]]
    for name, shape in shapes.items():
        spec = Spec(name=name, dtype="BF16", shape=shape)
        if sum(one.nbytes for one in shards[-1]) + spec.nbytes > SHARD_BYTES:
            shards.append([])
        shards[-1].append(spec)
    placed = []
    # One piece of noise over and over: the loops' work does not depend on the values.
    noise = np.random.default_rng(0).standard_normal(_TILE // 2, dtype=np.float32) * 0.02
    tile = (noise.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    for number, specs in enumerate(shards, start=1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        with (folder / name).open("wb") as file:
            file.write(tensorfile.header_bytes(specs))
            left = sum(spec.nbytes for spec in specs)
            while left:
                left -= file.write(tile[: min(left, len(tile))])
        placed += [(name, spec) for spec in specs]
    canonical.write(folder / INDEX, tensorfile.index_json(placed))
    canonical.write(folder / "config.json", {"architectures": ["x"], "model_type": "llama"})
    digests, lines = {}, []
    for path in sorted(folder.glob("*.safetensors")):
        arriving = Arriving(path, path.stat().st_size)
        digests[path.name] = sha256_of(path, arriving.update)
        lines += arriving.lines()
    canonical.write(folder / DIGESTS, digests)
    tensor_list.write(folder / tensor_list.FILE, lines)
