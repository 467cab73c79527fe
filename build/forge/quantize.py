"""Step quantize: base files, calibration record and rules in; shards out. A pure function.

The base is read once, in the order of its data, never holding more than a few tensors: what is
read is hashed and compared with the fetched digests, packed or copied, hashed again and written.
The result depends on the arguments alone, not on the machine: no torch, no GPU, no clock.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from forge import console, layout, nvfp4, record, rules, tensorfile
from forge.errors import QuantizeError
from forge.memory import Memory
from forge.pipeline import Job, Needed
from forge.rules import WEIGHT, Plan
from forge.stream import CHUNK, Bytes, Conveyor, Reader, Work
from forge.tensorfile import Spec, Tensor


def parameters(job: Job, needed: Needed) -> dict[str, Any]:  # noqa: ARG001
    """The rules and the layout; base and record count through their digests."""
    return {
        "quantize": [rule.model_dump(mode="json") for rule in job.recipe.quantize],
        "keep": [rule.model_dump(mode="json") for rule in job.recipe.keep],
        "mtp": list(job.recipe.mtp.tensors),
        "layout": job.recipe.layout.model_dump(mode="json"),
    }


def run(job: Job, needed: Needed, out: Path) -> Mapping[str, str]:
    """Writes the body's shards and returns their digests."""
    inputs = needed["fetch"]
    base = tensorfile.read_checkpoint(inputs.files / "base")
    plan = rules.plan(job.recipe, base)
    maxima = record.read(needed["calibrate"].files / record.FILE, plan.quantized)
    digests = {Path(path).name: digest for path, digest in inputs.digests.items()}
    return quantize(base, digests, plan, maxima, job.recipe.layout.shard_bytes, out)


def quantize(  # noqa: PLR0917 - a pure function of six things
    base: Mapping[str, Tensor],
    digests: Mapping[str, str],
    plan: Plan,
    maxima: Mapping[str, np.float32],
    shard_bytes: int,
    out: Path,
) -> dict[str, str]:
    """Streams a base into quantized shards.

    Args:
        base: its tensors by name, in the order of their data.
        digests: the sha256 that each base file must have, by file name.
        plan: which tensors are quantized, kept, or left to the graft.
        maxima: the largest input magnitude of each quantized linear, by module name.
        shard_bytes: the largest shard; a larger tensor gets a shard of its own.
        out: an empty folder.

    Returns:
        The sha256 of each shard, by file name.

    Raises:
        QuantizeError: a weight that cannot be quantized, or a base file whose bytes are not those
            that were fetched.
    """
    group_of = {module + WEIGHT: group for group in plan.groups for module in group}
    shards = _fill_shards(list(_emitted(base, plan, group_of)), shard_bytes)
    mtp = set(plan.mtp)
    waiting: dict[tuple[str, ...], dict[str, Memory]] = {}
    total = sum(tensor.nbytes for tensor in base.values())
    with console.bytes_bar("quantize", total) as advance, Conveyor(shards, out) as conveyor:
        for path, tensors in groupby(base.values(), key=lambda tensor: tensor.file):
            with Reader(path, digests, advance) as reader:
                for tensor in tensors:
                    group = group_of.get(tensor.name)
                    if tensor.name in mtp:
                        reader.skip(tensor)
                    elif group is None:
                        _copy(tensor, reader, conveyor)
                    else:
                        members = waiting.setdefault(group, {})
                        memory = conveyor.lend(tensor.nbytes)
                        reader.read(tensor, memory[: tensor.nbytes])
                        members[tensor.name.removesuffix(WEIGHT)] = memory
                        if len(members) == len(group):
                            del waiting[group]
                            work = _pack_group(base, members, maxima)
                            conveyor.pack(work, list(members.values()))
        return conveyor.finish()


def _copy(tensor: Tensor, reader: Reader, conveyor: Conveyor) -> None:
    """Sends a tensor through in pieces, so that its size does not matter."""
    for start in range(0, tensor.nbytes, CHUNK):
        count = min(CHUNK, tensor.nbytes - start)
        memory = conveyor.lend(count)
        reader.read(tensor, memory[:count], start)
        conveyor.copy(memory, count)


def _emitted(
    base: Mapping[str, Tensor], plan: Plan, group_of: Mapping[str, tuple[str, ...]]
) -> Iterator[Spec]:
    """What is written, in order: a kept tensor at its place, a group where its last member lies."""
    keep = set(plan.keep)
    seen: dict[tuple[str, ...], list[str]] = {group: [] for group in plan.groups}
    for name, tensor in base.items():
        if name in keep:
            yield tensor.spec
        elif name in group_of:
            group = group_of[name]
            nvfp4.check_shape(name, tensor.dtype, tensor.shape)
            seen[group].append(name.removesuffix(WEIGHT))
            if len(seen[group]) == len(group):
                for module in seen[group]:
                    yield from layout.quantized_specs(module, *base[module + WEIGHT].shape)


def _fill_shards(specs: Sequence[Spec], shard_bytes: int) -> dict[str, list[Spec]]:
    """Fills shards in order; none exceeds `shard_bytes` unless one tensor alone does."""
    shards: list[list[Spec]] = [[]]
    size = 0
    for spec in specs:
        if shards[-1] and size + spec.nbytes > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(spec)
        size += spec.nbytes
    return {
        f"model-{number:05d}-of-{len(shards):05d}.safetensors": shard
        for number, shard in enumerate(shards, start=1)
    }


def _pack_group(
    base: Mapping[str, Tensor], members: Mapping[str, Memory], maxima: Mapping[str, np.float32]
) -> Work:
    """The work of packing linears that share their maxima, to be done by another thread."""

    def work(allocate: Callable[[int], Memory]) -> list[Bytes]:
        weights = {}
        for module, memory in members.items():
            tensor = base[module + WEIGHT]
            data = memory[: tensor.nbytes]
            weights[module] = nvfp4.as_weight(data.data, tensor.dtype, tensor.shape)
        largest = max(nvfp4.amax(weight, module) for module, weight in weights.items())
        scale_2 = nvfp4.global_scale(largest)
        if scale_2 == 0:
            raise QuantizeError(
                f"{next(iter(members))}: the weight is zero throughout (largest magnitude "
                f"{largest}), so it has no scale; name it under [[keep]] if that is meant."
            )
        parts: list[Bytes] = []
        for module, weight in weights.items():
            codes, scales = nvfp4.pack(weight, scale_2, allocate)
            input_scale = nvfp4.global_scale(maxima[module])
            parts += [codes, scales, scale_2.tobytes(), input_scale.tobytes()]
        return parts

    return work
