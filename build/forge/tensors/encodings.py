"""Packs weights in each format of :mod:`forge.tensors.formats`."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from forge.tensors import compressed_tensors, nvfp4
from forge.tensors.formats import Format
from forge.tensors.nvfp4 import Weight
from forge.tensors.small_floats import Bytes

Bits = npt.NDArray[Any]
# The data of a format's first two tensors for some rows of a weight, under the weight's global
# scale, 1 if it has none. The last argument is where the first goes.
Encode = Callable[[Weight, np.float32, Bytes | None], tuple[Bytes, Bits]]

# By the format's label.
ENCODINGS: Mapping[str, Encode] = {
    "NVFP4": partial(nvfp4.pack, arithmetic=nvfp4.MODELOPT),
    "nvfp4-pack-quantized": partial(nvfp4.pack, arithmetic=compressed_tensors.ARITHMETIC),
    "float-quantized": lambda rows, _, codes: compressed_tensors.pack_fp8(rows, codes),
}


def pack(
    kind: Format, rows: Weight, maximum: np.float32, codes: Bytes | None = None
) -> tuple[Bytes, Bits]:
    """The data of the first two tensors, row by row, so that a weight may be packed in parts.

    Args:
        kind: the format.
        rows: some rows of a weight, finite.
        maximum: the largest magnitude among the weights that share it.
        codes: where the first goes; the front of the rows' own memory will do.
    """
    scale = kind.global_scale(maximum) if kind.global_scale else np.float32(1)
    return ENCODINGS[kind.label](rows, scale, codes)
