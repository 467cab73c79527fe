"""Sorts the tensors of a result by recipe: quantized linear layers, kept tensors, the head."""

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from math import prod

from forge.manifest.tensor_list import TensorLine
from forge.recipes.recipe import Recipe
from forge.tensors.plan import compile_pattern

WEIGHTS_PER_BYTE = {"U8": 2, "F8_E4M3": 1}
STORED_AS = {"U8": "NVFP4", "F8_E4M3": "FP8"}


@dataclass(frozen=True, kw_only=True)
class Part:
    """Tensors that are one thing and stored alike; `weights` counts the numbers they stand for."""

    name: str
    stored_as: str
    tensors: int
    weights: int
    nbytes: int

    @property
    def bits(self) -> float:
        """Bits a weight, scales included."""
        return 8 * self.nbytes / self.weights


def of(variant: Recipe, lines: Collection[TensorLine]) -> tuple[Part, ...]:
    """The lines of `tensors.jsonl` by what they are, largest first."""
    names = {line.name for line in lines}
    kept = [
        (compile_pattern(pattern), rule.what) for rule in variant.keep for pattern in rule.tensors
    ]
    head = set(variant.mtp.tensors)
    # Of a quantized linear, one tensor holds the weights and says how they are stored.
    codes = {
        line.name.rpartition(".")[0]: line
        for line in lines
        if line.dtype in STORED_AS and line.name.endswith((".weight", ".weight_packed"))
    }
    found: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    for line in lines:
        name, module = line.name, line.name.rpartition(".")[0]
        weights = prod(line.shape)
        if f"{module}.weight_scale" in names and module in codes:
            dtype = codes[module].dtype
            key = family(module), STORED_AS[dtype]
            weights = weights * WEIGHTS_PER_BYTE[dtype] if line is codes[module] else 0
        elif name in head:
            key = "MTP head", line.dtype
        else:
            what = next((what for pattern, what in kept if pattern.fullmatch(name)), "other")
            key = what, line.dtype
        found[key].append((weights, line.nbytes))
    parts = [
        Part(
            name=name,
            stored_as=stored_as,
            tensors=len(sizes),
            weights=sum(weights for weights, _ in sizes),
            nbytes=sum(nbytes for _, nbytes in sizes),
        )
        for (name, stored_as), sizes in found.items()
    ]
    return tuple(sorted(parts, key=lambda part: (-part.nbytes, part.name)))


def family(module: str) -> str:
    """The kind of block that a linear belongs to: `mlp` of `layers.3.mlp.up_proj`."""
    words = module.partition("layers.")[2].split(".")[1:-1] or module.split(".")[:-1]
    return ".".join(word for word in words if not word.isdigit()) or module
