"""Packs linear layers: reads them in slabs of rows, and packs each in place.

A global scale is known once all layers that share it have been read, so until then they are in
memory. After that, each slab is freed as soon as its codes are written. The scales of a layer are
written after its codes, as safetensors holds one tensor after the other.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial

import numpy as np

from forge.core.errors import QuantizeError
from forge.tensors import encodings, nvfp4, stream
from forge.tensors.buffers import Memory
from forge.tensors.plan import Linear
from forge.tensors.stream import Bytes, Conveyor, Reader
from forge.tensors.tensorfile import DTYPE_BYTES, Tensor


# An array cannot be compared as a whole, hence eq=False.
@dataclass(frozen=True, kw_only=True, eq=False)
class Slab:
    """Some rows of a weight, in lent memory."""

    memory: Memory
    rows: nvfp4.Weight
    maximum: Future[np.float32]


@dataclass(frozen=True, kw_only=True, eq=False)
class Member:
    """A linear of a group whose other members may still have to be read."""

    linear: Linear
    slabs: Sequence[Slab]


def read(linear: Linear, tensor: Tensor, reader: Reader, conveyor: Conveyor) -> Member:
    """Reads a linear's weight, maybe a slice of a tensor that is never in memory as a whole."""
    count, columns = linear.place.shape
    width = columns * DTYPE_BYTES[tensor.dtype]
    start = linear.place.start * DTYPE_BYTES[tensor.dtype]
    step = max(1, stream.CHUNK // width)
    slabs = []
    for first in range(0, count, step):
        shape = min(step, count - first), columns
        memory = conveyor.lend(shape[0] * width)
        data = memory[: shape[0] * width].data
        read = reader.read(tensor, data, start + first * width)
        rows = nvfp4.as_weight(data, tensor.dtype, shape)
        maximum = conveyor.soon(partial(_amax, read, rows, linear.module))
        slabs.append(Slab(memory=memory, rows=rows, maximum=maximum))
    return Member(linear=linear, slabs=slabs)


def pack(group: Sequence[Member], inputs: Mapping[str, np.float32], conveyor: Conveyor) -> None:
    """Packs the linears of a group under the maximum that they share, each slab in its place."""
    maximum = conveyor.soon(partial(_maximum, group))
    for member in group:
        work = [partial(_pack_slab, slab, member.linear, maximum) for slab in member.slabs]
        packed = [conveyor.soon(one) for one in work]
        for slab, future in zip(member.slabs, packed, strict=True):
            conveyor.write(partial(_codes, future), slab.memory)
        conveyor.write(partial(_scales, packed, member.linear, maximum, inputs))


def _amax(read: Future[None], rows: nvfp4.Weight, module: str) -> np.float32:
    read.result()
    return nvfp4.amax(rows, module)


def _maximum(group: Sequence[Member]) -> np.float32:
    maximum = max(slab.maximum.result() for member in group for slab in member.slabs)
    for linear in (member.linear for member in group):
        if linear.format.global_scale and not linear.format.global_scale(maximum):
            raise QuantizeError(
                f"{linear.module}: its largest magnitude {maximum} is too small for a scale; "
                "name it under [[keep]] if that is meant."
            )
    return maximum


def _pack_slab(slab: Slab, linear: Linear, maximum: Future[np.float32]) -> tuple[Bytes, Bytes]:
    codes, _ = linear.format.specs(linear.module, slab.rows.shape)[:2]
    room = slab.memory[: codes.nbytes].reshape(codes.shape)
    return encodings.pack(linear.format, slab.rows, maximum.result(), room)


def _codes(packed: Future[tuple[Bytes, Bytes]]) -> Iterator[Bytes]:
    yield packed.result()[0]


def _scales(
    packed: Sequence[Future[tuple[Bytes, Bytes]]],
    linear: Linear,
    maximum: Future[np.float32],
    inputs: Mapping[str, np.float32],
) -> Iterator[Bytes]:
    for slab in packed:
        yield slab.result()[1]
    yield from linear.format.scalars(linear.module, maximum.result(), inputs)
