"""Step quantize: base files, calibration record and rules in; shards out. A pure function.

The base is read once, in the order of its data, never holding more than a few tensors: what is
read is hashed and compared with the fetched digests, packed or copied, hashed again and written.
The result depends on the arguments alone, not on the machine: no torch, no GPU, no clock.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from hashlib import sha256
from itertools import groupby
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from forge.calibration import record
from forge.checkpoint import layout
from forge.tensors import packing, stream, tensor_list, tensorfile
from forge.tensors.checkpoint import Checkpoint  # by which what makes it counts in the key
from forge.tensors.plan import Plan
from forge.tensors.stream import Bytes, Conveyor, Reader, Written
from forge.tensors.tensor_list import NewHash
from forge.tensors.tensorfile import Spec, Tensor

if TYPE_CHECKING:
    from forge.pipeline import Work


def parameters(work: "Work") -> dict[str, Any]:
    """The rules and the layout; base and record count through their digests."""
    return layout.decided(work.recipe)


def run(work: "Work", out: Path) -> Mapping[str, str]:
    """Writes the body's shards and the list of their tensors; returns the digests of all.

    Raises:
        SpaceError: there is no room for them and for what graft and dress add.
        QuantizeError, CalibrationError: as `quantize` and the record's reader.
    """
    made: Checkpoint = work.checkpoint
    base, plan = made.base, made.plan
    needed = checkpoint_bytes(made, work.inputs / "base")
    work.require_room(needed, "the checkpoint")
    maxima = record.read(work.needed["calibrate"].files / record.FILE, plan.calibrated)
    # The donor's files are called like the base's.
    digests = {
        Path(path).name: digest
        for path, digest in work.needed["fetch"].digests.items()
        if path.startswith("base/")
    }
    size, arrived = work.recipe.layout.shard_bytes, work.checkpoint.digests
    total = sum(tensor.nbytes for tensor in base.values())
    with work.bytes_bar("quantize", total) as advance:
        written = quantize(base, digests, plan, maxima, size, out, advance, arrived=arrived)
    listed = tensor_list.write(out / tensor_list.FILE, written.tensors)
    return written.files | {tensor_list.FILE: listed}


def checkpoint_bytes(made: Checkpoint, base: Path) -> int:
    """What quantize, graft and dress will write: all of the checkpoint, which lies there once.

    Known from headers and rules: shards to the byte. Of the files in `base` beside the weights, the
    sizes that they have there; dress changes some of them by a few kilobytes.
    """
    body = layout.body(_specs(made.base), made.plan, made.recipe.layout.shard_bytes)
    head = [made.head[name].spec for name in made.recipe.mtp.tensors if name in made.head]
    shards = [*body.values(), head]
    files = (path for path in base.iterdir() if path.suffix != ".safetensors")
    return sum(map(_file_bytes, shards)) + sum(path.stat().st_size for path in files)


def _specs(tensors: Mapping[str, Tensor]) -> dict[str, Spec]:
    return {name: tensor.spec for name, tensor in tensors.items()}


def _file_bytes(specs: Sequence[Spec]) -> int:
    return len(tensorfile.header_bytes(specs)) + sum(spec.nbytes for spec in specs)


def quantize(  # noqa: PLR0917 - a pure function of six things, and a bar
    base: Mapping[str, Tensor],
    digests: Mapping[str, str],
    plan: Plan,
    maxima: Mapping[str, np.float32],
    shard_bytes: int,
    out: Path,
    advance: Callable[[int], None] = lambda _: None,
    *,
    arrived: Mapping[str, str] = MappingProxyType({}),
    new_hash: NewHash = sha256,
) -> Written:
    """Streams a base into quantized shards.

    Args:
        base: its tensors by name, in the order of their data.
        digests: the digest that each base file must have, by file name.
        plan: which tensors are quantized, kept, removed, or left to the graft.
        maxima: the largest input magnitudes of the calibrated linears, by module name.
        shard_bytes: the largest shard; a larger tensor gets a shard of its own.
        out: an empty folder.
        advance: is told how many bytes were read or passed over.
        arrived: the digests that the base's tensors had on arrival, by name. A tensor that is
            copied has the same, since its file must have the same digest in this very pass; so it
            is not hashed once more for itself.
        new_hash: begins each digest, of what is read and of what is written.

    Returns:
        The digests of the shards and of their tensors.

    Raises:
        QuantizeError: a weight that cannot be quantized, or a base file whose bytes are not those
            that were fetched.
    """
    group_of = {module: group for group in plan.groups for module in group}
    parts = plan.by_tensor()
    shards = layout.body(_specs(base), plan, shard_bytes)
    copied = {name: arrived[name] for name in plan.keep if name in arrived}
    passed_over = {*plan.mtp, *plan.removed}
    waiting: dict[tuple[str, ...], list[packing.Member]] = defaultdict(list)
    with Conveyor(shards, out, copied, new_hash) as conveyor:
        for path, tensors in groupby(base.values(), key=lambda tensor: tensor.file):
            with Reader(path, digests, advance, new_hash) as reader:
                for tensor in tensors:
                    if tensor.name in passed_over:
                        reader.skip(tensor)
                    elif tensor.name not in parts:
                        _copy(tensor, reader, conveyor)
                    for linear in parts.get(tensor.name, ()):
                        group = group_of[linear.module]
                        member = packing.read(linear, tensor, reader, conveyor)
                        waiting[group].append(member)
                        if len(waiting[group]) == len(group):
                            packing.pack(waiting.pop(group), maxima, conveyor)
        return conveyor.finish()


def _copy(tensor: Tensor, reader: Reader, conveyor: Conveyor) -> None:
    """Sends a tensor through in pieces, so that its size does not matter."""
    for start in range(0, tensor.nbytes, stream.CHUNK):
        count = min(stream.CHUNK, tensor.nbytes - start)
        memory = conveyor.lend(count)
        data = memory[:count].data
        conveyor.write(partial(_copied, reader.read(tensor, data, start), data), memory)


def _copied(read: Future[None], data: memoryview) -> Iterator[Bytes]:
    read.result()
    yield data
