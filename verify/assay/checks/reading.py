"""The one pass over a result, and over what it was made from.

Every byte of the result is read once, file by file, and of base and donor every tensor that has a
part in it. While the bytes are in memory, all is done that needs them: digests of files and
tensors, the comparison with the base, a look at every scale, the error of every linear. What the
outcome means is judged in :mod:`assay.checks.structure`.

A linear's codes can be judged only by its scales, which lie behind them: those are read ahead, and
kept until the pass comes to where they lie.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from itertools import groupby
from pathlib import Path
from typing import Any, Self

import numpy as np

from forge.core import console
from forge.core.canonical import sha256_file
from forge.tensors import quantization_error
from forge.tensors.checkpoint import Checkpoint
from forge.tensors.plan import Linear
from forge.tensors.small_floats import SMALLEST_NORMAL
from forge.tensors.tensorfile import DTYPE_BYTES, Tensor
from forge.tensors.weight_errors import Error

CHUNK = 4 << 20
# Pieces that may be in memory at a time: of a linear, codes and weights of quantization_error.CHUNK
# elements, of a kept tensor, twice CHUNK.
IN_FLIGHT = 8

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a pass has found.

    `files` and `tensors` are the sha256 of the result's files and tensors. `sources` counts the
    tensors of base and donor that were read, `moved` has those that are not what was fetched.
    `unequal` are the tensors that should be their source's and are not, `scales` counts the values
    of scales, `bad` has the scale tensors that are missing, of another form, or not finite and
    positive (a subnormal is as good as 0), `global_scales` the bytes of those of one value by
    name, `errors` the errors of the linears whose tensors are all there.
    """

    files: Mapping[str, str]
    tensors: Mapping[str, str]
    sources: int
    moved: Sequence[str]
    unequal: frozenset[str]
    scales: int
    bad: Sequence[str]
    global_scales: Mapping[str, bytes]
    errors: Sequence[Error]


def read(made: Checkpoint, folder: Path, stored: Tensors, beside: Sequence[str]) -> Reading:
    """Reads a result and its sources.

    Args:
        made: the checkpoint that the recipe makes of the base.
        folder: the checkpoint that is there.
        stored: its tensors by name, file by file in the order of their data.
        beside: its other files, by path.
    """
    total = sum(tensor.nbytes for tensor in stored.values())
    with console.bytes_bar("reading", total) as advance, _Pass(made, stored) as reading:
        for path, tensors in groupby(stored.values(), key=lambda tensor: tensor.file):
            for count in reading.file(path, list(tensors)):
                advance(count)
        return reading.outcome({name: sha256_file(folder / name) for name in beside})


class _Digests:
    """Digests that grow in the order of the work given, on a thread of their own."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "digest")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(cancel_futures=True)

    def update(self, digest: Any, data: bytes) -> "Future[None]":
        return self._thread.submit(digest.update, data)


class _Source:
    """A tensor that the result is compared with; its digest is taken as its parts are read."""

    def __init__(self, tensor: Tensor, descriptor: int, expected: str | None) -> None:
        self.tensor = tensor
        self.digest = sha256()
        self._descriptor = descriptor
        self._expected = expected
        self._position = 0

    def part(self, start: int, count: int) -> tuple[bytes, bool]:
        """Some bytes, and whether they are the digest's next."""
        data = self.tensor.part(self._descriptor, start, count)
        due = start == self._position
        if due:
            self._position += count
        return data, due

    def is_fetched(self) -> bool:
        """Whether it has the digest that fetch took, once all digests are through.

        The experts of a fused tensor lie in the result in the order that they have in the base.
        Where they do not, the tensor is read once more.
        """
        digest = self.digest
        if self._position != self.tensor.nbytes:
            digest = sha256()
            for chunk in self.tensor.chunks():
                digest.update(chunk)
        return digest.hexdigest() == self._expected


class _Pass:
    """The state of a pass: what is open, what is kept, what is under way."""

    def __init__(self, made: Checkpoint, stored: Tensors) -> None:
        self._made, self._stored = made, stored
        self._open = ExitStack()
        self._descriptors: dict[Path, int] = {}
        self._files: dict[str, Any] = {}
        self._tensors: dict[str, Any] = {}
        self._sources: dict[tuple[Path, str], _Source] = {}
        self._ahead: dict[str, bytes] = {}  # read before the pass came there
        self._scales: dict[str, dict[str, bytes]] = {}  # of linears whose codes are yet to come
        self._flying: deque[Future[Any]] = deque()
        self._equal: list[tuple[str, Future[bool]]] = []
        self._good: dict[str, list[Future[bool]]] = {}
        self._squares: dict[str, list[Future[tuple[float, float] | None]]] = {}
        self._count = 0
        self._global_scales: dict[str, bytes] = {}
        self._compared: set[str] = set()
        self._whole = {
            linear.module
            for linear in made.plan.linears.values()
            if all(self._is_there(spec) for spec in _specs(linear))
        }
        self._codes = {_specs(linear)[0].name: linear for linear in made.plan.linears.values()}
        self._scale_of = {
            f"{linear.module}.{suffix}": (linear, suffix)
            for linear in made.plan.linears.values()
            for suffix in linear.format.scales
        }
        self._equals = dict.fromkeys(made.plan.keep, (made.base, made.digests))
        if made.head_source is not None:
            of_head = dict.fromkeys(made.recipe.mtp.tensors, (made.head, made.head_digests))
            self._equals |= of_head

    def __enter__(self) -> Self:
        workers = min(4, os.cpu_count() or 1)
        self._pool = self._open.enter_context(ThreadPoolExecutor(workers, "compare"))
        self._of_files = self._open.enter_context(_Digests())
        self._of_tensors = self._open.enter_context(_Digests())
        self._of_sources = self._open.enter_context(_Digests())
        return self

    def __exit__(self, *error: Any) -> None:
        if error[0] is not None:
            self._pool.shutdown(cancel_futures=True)
        self._open.__exit__(*error)

    def file(self, path: Path, tensors: Sequence[Tensor]) -> Iterator[int]:
        """Reads a file of the result from front to back; yields how far it has come."""
        descriptor = self._descriptor(path)
        digest = self._files[path.name] = sha256()
        digest.update(os.pread(descriptor, tensors[0].offset, 0))
        for tensor in tensors:
            own = self._tensors[tensor.name] = sha256()
            for data in self._pieces(tensor):
                self._fly(self._of_files.update(digest, data))
                self._fly(self._of_tensors.update(own, data))
                yield len(data)

    def outcome(self, beside: Mapping[str, str]) -> Reading:
        """What was found, `beside` being the digests of the other files."""
        while self._flying:
            self._flying.popleft().result()
        made = self._made
        unequal = {name for name, equal in self._equal if not equal.result()}
        bad = {name for name in self._scale_of if not self._is_scale(name)}
        bad |= {name for name, good in self._good.items() if not all(g.result() for g in good)}
        errors = []
        for module, parts in sorted(self._squares.items()):
            squares = [square for part in parts if (square := part.result()) is not None]
            if len(squares) == len(parts):
                errors.append(quantization_error.total(made.plan.linears[module], squares))
        return Reading(
            files={**beside, **{name: one.hexdigest() for name, one in self._files.items()}},
            tensors={name: one.hexdigest() for name, one in self._tensors.items()},
            sources=len(self._sources),
            moved=sorted(
                name for (_, name), source in self._sources.items() if not source.is_fetched()
            ),
            unequal=frozenset(unequal | (self._equals.keys() - self._compared)),
            scales=self._count,
            bad=sorted(bad),
            global_scales=self._global_scales,
            errors=errors,
        )

    def _pieces(self, tensor: Tensor) -> Iterator[bytes]:
        """The bytes of a tensor of the result in order; all that can be done with them is begun."""
        name = tensor.name
        if name in self._ahead:
            yield self._ahead.pop(name)
        elif name in self._scale_of and self._is_scale(name):
            yield self._scale(name)
        elif name in self._codes and self._codes[name].module in self._whole:
            yield from self._linear(self._codes[name], tensor)
        elif (source := self._source_of(tensor)) is not None:
            yield from self._kept(tensor, source)
        else:
            for start in range(0, tensor.nbytes, CHUNK):
                yield self._part(tensor, start, min(CHUNK, tensor.nbytes - start))

    def _kept(self, tensor: Tensor, source: _Source) -> Iterator[bytes]:
        """A tensor that should be its source's."""
        self._compared.add(tensor.name)
        for start in range(0, tensor.nbytes, CHUNK):
            data = self._part(tensor, start, min(CHUNK, tensor.nbytes - start))
            original = self._original(source, start, len(data))
            equal = self._pool.submit(bytes.__eq__, data, original)
            self._equal.append((tensor.name, equal))
            self._fly(equal)
            yield data

    def _linear(self, linear: Linear, tensor: Tensor) -> Iterator[bytes]:
        """The codes of a linear, whose other tensors are read ahead."""
        module = linear.module
        for suffix in linear.format.scales:
            name = f"{module}.{suffix}"
            if suffix not in self._scales.get(module, {}):
                self._ahead[name] = self._scale(name)
        scales = self._scales.pop(module)
        good = [one for suffix in scales for one in self._good[f"{module}.{suffix}"]]
        weight = self._made.base[linear.place.tensor]
        source = self._source(weight, self._made.digests)
        size = DTYPE_BYTES[weight.dtype]
        rows, columns = linear.place.shape
        width = tensor.nbytes // rows
        parts = self._squares[module] = []
        for some in quantization_error.steps(linear):
            codes = self._part(tensor, some.start * width, len(some) * width)
            start = (linear.place.start + some.start * columns) * size
            exact = self._original(source, start, len(some) * columns * size)
            loader = self._made.recipe.layout.loader
            work = partial(
                quantization_error.squares, linear, loader, some, codes, scales, exact, weight.dtype
            )
            parts.append(self._pool.submit(_if_all, good, work))
            self._fly(parts[-1])
            yield codes

    def _scale(self, name: str) -> bytes:
        """The data of a scale tensor; a look at its values is begun."""
        linear, suffix = self._scale_of[name]
        tensor = self._stored[name]
        data = self._part(tensor, 0, tensor.nbytes)
        if linear.module in self._whole:
            self._scales.setdefault(linear.module, {})[suffix] = data
        values: Callable[[Any], Any] = linear.format.scales[suffix]
        self._count += tensor.nbytes // DTYPE_BYTES[tensor.dtype]
        if suffix in linear.format.global_scales:
            self._global_scales[name] = data
        self._good[name] = [
            self._pool.submit(_are_good, values, memoryview(data)[start : start + CHUNK])
            for start in range(0, len(data), CHUNK)
        ]
        return data

    def _source_of(self, tensor: Tensor) -> _Source | None:
        """What a tensor of the result should be equal to, if there is such a tensor."""
        tensors, digests = self._equals.get(tensor.name, ({}, {}))
        source = tensors.get(tensor.name)
        if source is None or source.spec != tensor.spec:
            return None
        return self._source(source, digests)

    def _source(self, tensor: Tensor, digests: Mapping[str, str]) -> _Source:
        key = tensor.file, tensor.name
        if key not in self._sources:
            descriptor = self._descriptor(tensor.file)
            self._sources[key] = _Source(tensor, descriptor, digests.get(tensor.name))
        return self._sources[key]

    def _original(self, source: _Source, start: int, count: int) -> bytes:
        data, due = source.part(start, count)
        if due:
            self._fly(self._of_sources.update(source.digest, data))
        return data

    def _part(self, tensor: Tensor, start: int, count: int) -> bytes:
        return tensor.part(self._descriptor(tensor.file), start, count)

    def _descriptor(self, path: Path) -> int:
        if path not in self._descriptors:
            file = self._open.enter_context(path.open("rb", buffering=0))
            self._descriptors[path] = file.fileno()
        return self._descriptors[path]

    def _fly(self, work: "Future[Any]") -> None:
        """Takes note of work that holds on to bytes, and waits if there is too much of it."""
        self._flying.append(work)
        while len(self._flying) > 4 * IN_FLIGHT:  # each piece is at most in four hands
            self._flying.popleft().result()

    def _is_there(self, spec: Any) -> bool:
        found = self._stored.get(spec.name)
        return found is not None and found.spec == spec

    def _is_scale(self, name: str) -> bool:
        linear, _ = self._scale_of[name]
        return any(spec.name == name and self._is_there(spec) for spec in _specs(linear))


def _specs(linear: Linear) -> list[Any]:
    return linear.format.specs(linear.module, linear.place.shape)


def _are_good(read_values: Any, data: memoryview) -> bool:
    """Whether scales are finite, positive and no subnormals, which engines may take for 0."""
    values = read_values(data)
    return bool(np.all(np.isfinite(values) & (values >= SMALLEST_NORMAL)))


def _if_all(good: Sequence["Future[bool]"], work: Any) -> Any:
    """What `work` gives, or None where a scale would make it meaningless."""
    return work() if all(one.result() for one in good) else None
