"""The formats of quantized linears: what each of them stores.

A recipe's loader and a rule's format choose one. Writer, layout and assay know a format by what
it says here and nowhere else. How one is packed is in :mod:`forge.tensors.encodings`, so that what
only checks a release needs no compiled loops.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from forge.core.errors import QuantizeError
from forge.tensors.small_floats import (
    BLOCK,
    E4M3_MAX,
    E4M3_VALUES,
    SMALLEST_NORMAL,
    Floats,
    bf16_bits,
    divisor,
    global_scale,
    nearest_e4m3,
    widen_bf16,
)
from forge.tensors.tensorfile import Spec

Shape = tuple[int, ...]
Loader = Literal["modelopt", "compressed-tensors"]
Maxima = Mapping[str, np.float32]


@dataclass(frozen=True, kw_only=True)
class ScaleBits:
    """What the scales of blocks or rows can be, as bits, which sort as the scales do.

    Attributes:
        smallest: the least of all.
        largest: the greatest of all.
        zero: what a block or row of zeros has.
        full: what the block has in which the largest magnitude lies of all weights that share a
            global scale; None if none is shared.
    """

    smallest: int
    largest: int
    zero: int
    full: int | None


@dataclass(frozen=True, kw_only=True)
class Format:
    """How linears are stored for a loader; all that differs between formats.

    Attributes:
        name: as the recipe writes it.
        label: as the quantization config does.
        dtypes: what a weight may be stored in.
        block: the columns of a weight are a multiple of it.
        specs: the tensors that stand for a linear of a shape [rows, columns], in their order.
        scales: how the values of the scale tensors are read, by the last part of their name.
        scale_bits: what the values of the first of them can be.
        global_scale: what the other two store, of the weight's largest magnitude and of its
            input's; None if each row and each input is scaled by its own.
        scheme: what compressed-tensors' config says of weights and inputs; empty for modelopt.
    """

    name: str
    label: str
    dtypes: tuple[str, ...]
    block: int
    specs: Callable[[str, Shape], list[Spec]]
    scales: Mapping[str, Callable[[bytes], Floats]]
    scale_bits: ScaleBits
    global_scale: Callable[[np.float32], np.float32] | None
    scheme: Mapping[str, Any]

    @property
    def global_scales(self) -> tuple[str, ...]:
        """The last parts of the names of the scales of one value; the first is of each block."""
        return tuple(self.scales)[1:] if self.global_scale else ()

    @property
    def block_scale(self) -> str:
        """The last part of the name of the scales of blocks or rows."""
        return next(iter(self.scales))

    def check(self, name: str, dtype: str, shape: Shape) -> None:
        """Refuses a weight that this format cannot hold.

        Raises:
            QuantizeError: its dtype is not among `dtypes`, it is no matrix, or its columns are
                no multiple of the block.
        """
        if dtype not in self.dtypes:
            raise QuantizeError(
                f"{name}: dtype {dtype} cannot be quantized; {', '.join(self.dtypes)} can."
            )
        if len(shape) != 2 or shape[1] % self.block or 0 in shape:
            raise QuantizeError(
                f"{name}: shape {list(shape)} cannot be quantized; {self.name} needs a matrix with "
                f"a multiple of {self.block} columns."
            )

    def scalars(self, module: str, maximum: np.float32, inputs: Maxima) -> list[bytes]:
        """The data of the tensors after the first two, by the input maxima of all modules."""
        if self.global_scale is None:
            return []
        return [self.global_scale(one).tobytes() for one in (maximum, inputs[module])]


def find(loader: Loader, name: str) -> Format:
    """The format of this name as a loader reads it; the recipe allows no other."""
    return FORMATS[loader, name]


def _modelopt_specs(module: str, shape: Shape) -> list[Spec]:
    return [
        *_packed(module, "weight", shape),
        Spec(name=f"{module}.weight_scale_2", dtype="F32", shape=()),
        Spec(name=f"{module}.input_scale", dtype="F32", shape=()),
    ]


def _compressed_specs(module: str, shape: Shape) -> list[Spec]:
    return [
        *_packed(module, "weight_packed", shape),
        Spec(name=f"{module}.weight_global_scale", dtype="F32", shape=(1,)),
        Spec(name=f"{module}.input_global_scale", dtype="F32", shape=(1,)),
    ]


def _fp8_specs(module: str, shape: Shape) -> list[Spec]:
    return [
        Spec(name=f"{module}.weight", dtype="F8_E4M3", shape=shape),
        Spec(name=f"{module}.weight_scale", dtype="BF16", shape=(shape[0], 1)),
    ]


def _packed(module: str, name: str, shape: Shape) -> list[Spec]:
    rows, columns = shape
    return [
        Spec(name=f"{module}.{name}", dtype="U8", shape=(rows, columns // 2)),
        Spec(name=f"{module}.weight_scale", dtype="F8_E4M3", shape=(rows, columns // BLOCK)),
    ]


def _read_e4m3(data: bytes) -> Floats:
    return E4M3_VALUES[np.frombuffer(data, dtype=np.uint8)]


def _read_bf16(data: bytes) -> Floats:
    return widen_bf16(np.frombuffer(data, dtype="<u2"))


def _read_f32(data: bytes) -> Floats:
    return np.frombuffer(data, dtype="<f4")


def _e4m3_bits(value: float) -> int:
    return int(nearest_e4m3(np.array([value], dtype=np.float32))[0])


def _bf16_bits(value: float | np.float32) -> int:
    return int(bf16_bits(np.array([value], dtype=np.float32))[0])


def _e4m3_blocks(zero: float) -> ScaleBits:
    """The scales of NVFP4's blocks: a global scale is such that the largest one is 448.

    What the libraries compute for it is 448 within 3%, however their divisions round, and E4M3
    rounds all from 432 on to 448. What would be zero is replaced or clamped.
    """
    full = _e4m3_bits(E4M3_MAX)
    return ScaleBits(smallest=1, largest=full, zero=_e4m3_bits(zero), full=full)


# As llm-compressor 0.14 writes its presets NVFP4 and FP8_DYNAMIC.
_WEIGHTS = {"dynamic": False, "observer": "memoryless_minmax"}
_FLOAT4 = {
    "num_bits": 4, "type": "float", "symmetric": True, "strategy": "tensor_group",
    "group_size": BLOCK, "scale_dtype": "torch.float8_e4m3fn",
}  # fmt: skip
_FLOAT8 = {"num_bits": 8, "type": "float", "symmetric": True}

_LARGEST_BF16 = widen_bf16(np.array([0x7F7F], dtype=np.uint16))[0]

FORMATS: Mapping[tuple[Loader, str], Format] = {
    ("modelopt", "nvfp4"): Format(
        name="nvfp4",
        label="NVFP4",
        dtypes=("BF16", "F16", "F32"),
        block=BLOCK,
        specs=_modelopt_specs,
        scales={
            "weight_scale": _read_e4m3, "weight_scale_2": _read_f32, "input_scale": _read_f32,
        },
        scale_bits=_e4m3_blocks(zero=1.0),
        global_scale=global_scale,
        scheme={},
    ),
    ("compressed-tensors", "nvfp4"): Format(
        name="nvfp4",
        label="nvfp4-pack-quantized",
        dtypes=("BF16",),
        block=BLOCK,
        specs=_compressed_specs,
        scales={
            "weight_scale": _read_e4m3,
            "weight_global_scale": _read_f32,
            "input_global_scale": _read_f32,
        },
        scale_bits=_e4m3_blocks(zero=0.125),
        global_scale=divisor,
        scheme={
            "weights": {**_FLOAT4, **_WEIGHTS},
            "input_activations": {**_FLOAT4, "dynamic": "local", "observer": "static_minmax"},
        },
    ),
    ("compressed-tensors", "fp8"): Format(
        name="fp8",
        label="float-quantized",
        dtypes=("BF16",),
        block=1,
        specs=_fp8_specs,
        scales={"weight_scale": _read_bf16},
        scale_bits=ScaleBits(  # a row's largest magnitude / 448; engines may take a subnormal for 0
            smallest=_bf16_bits(SMALLEST_NORMAL),
            largest=_bf16_bits(_LARGEST_BF16 / np.float32(E4M3_MAX)),
            zero=_bf16_bits(2.0**-7),
            full=None,
        ),
        global_scale=None,
        scheme={
            "weights": {**_FLOAT8, **_WEIGHTS, "strategy": "channel"},
            "input_activations": {**_FLOAT8, "strategy": "token", "dynamic": True},
        },
    ),
}  # fmt: skip
# The last parts of the names of all scales of blocks and rows.
BLOCK_SCALES = frozenset(one.block_scale for one in FORMATS.values())
