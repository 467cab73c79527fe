"""Compares two checkpoints, whatever their sharding: a verdict a file, a line a differing tensor.

No manifest is needed and none is trusted: what counts are the stored bytes, which are read in
pieces. `provenance/` and the documents of a release are left out, as is what a download from the
hub adds.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, Literal

from assay.rebuild import difference
from assay.rebuild.difference import Content, Difference, Entry
from assay.rebuild.listing import Listing
from forge.core import console, files
from forge.core.errors import DifferenceError, TensorFileError
from forge.manifest.names import DOCUMENTS, PROVENANCE
from forge.tensors import tensorfile
from forge.tensors.tensorfile import Tensor

# Beside what a release adds, what huggingface_hub and git keep in a folder for themselves.
OUTSIDE = {PROVENANCE, *DOCUMENTS, ".cache", ".git"}
WEIGHTS = ".safetensors"

Verdict = Literal[
    "identical",
    "header only",  # the same tensors with the same bytes, described by other header bytes
    "re-sharded",  # every tensor is the same, but some lie in another file
    "tensors differ",
    "differs",  # a file without tensors, or whose tensors cannot be read
    "missing",
    "extra",
]


@dataclass(frozen=True, kw_only=True)
class File:
    """What became of a file; `detail` says why its tensors could not be read, if so."""

    path: str
    verdict: Verdict
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What became of the first checkpoint in the second.

    `files` are all files of both by path, `tensors` those that are not the same by name, and
    `compared` counts the tensors of both, a tensor with its counterpart once.
    """

    files: tuple[File, ...]
    tensors: tuple[Difference, ...]
    compared: int

    @property
    def identical(self) -> bool:
        """Whether there are files, and nothing differs in any of them."""
        good = all(file.verdict == "identical" for file in self.files)
        return bool(self.files) and good and not self.tensors

    def as_json(self) -> dict[str, Any]:
        """This comparison as JSON."""
        return {**asdict(self), "identical": self.identical}


@dataclass(frozen=True, kw_only=True)
class Side(Generic[Content]):
    """One of two checkpoints: its files, their tensors, and why some files' cannot be read."""

    files: Collection[str]
    tensors: Sequence[Entry[Content]]
    unreadable: Mapping[str, str] = field(default_factory=dict)

    def names(self, path: str) -> set[str]:
        """The names of a file's tensors."""
        return {entry.name for entry in self.tensors if entry.file == path}


@dataclass(frozen=True, kw_only=True)
class Matched(Generic[Content]):
    """The tensors of two checkpoints: each with its counterpart, and those that have none."""

    pairs: Sequence[tuple[Entry[Content], Entry[Content]]]
    missing: Sequence[Entry[Content]]
    extra: Sequence[Entry[Content]]


Measure = Callable[[Entry[Content], Entry[Content]], Difference | None]


def folders(before: Path, after: Path) -> Comparison:
    """Compares the files of two folders, as :func:`stored` does.

    Raises:
        FetchError: one of them is no folder.
        DifferenceError: there is not a single file to compare.
    """
    return stored(_places(before), _places(after))


def _places(folder: Path) -> dict[str, Path]:
    found = {name: folder / name for name in checkpoint_files(folder)}
    if not found:
        raise DifferenceError(f"{folder}: holds no file to compare; name a checkpoint folder.")
    return found


def stored(
    before: Mapping[str, Path],
    after: Mapping[str, Path],
    written: Mapping[str, str] = MappingProxyType({}),
) -> Comparison:
    """Compares stored bytes; files that differ are read twice, to say in which tensors.

    Args:
        before: the files of a checkpoint, each with the path at which it is read.
        after: those of another.
        written: digests that files of the first had when they were written; of these files, only
            the second's are read, unless they differ.
    """
    one, other = _side(before), _side(after)
    equal = _equal_files(before, after, sorted({*one.files} & {*other.files}), written)

    def measure(left: Entry[Tensor], right: Entry[Tensor]) -> Difference | None:
        # The tensors of equal files are not read once more.
        same = left.file == right.file and left.file in equal
        return None if same else difference.of_bytes(left, right)

    return _judge(one, other, equal, measure)


def listings(before: Listing, after: Listing) -> Comparison:
    """Compares by digests alone."""
    equal = {path for path, digest in before.files.items() if after.files.get(path) == digest}
    one, other = (Side(files=side.files, tensors=side.tensors) for side in (before, after))
    return _judge(one, other, equal, difference.of_digests)


def checkpoint_files(folder: Path) -> list[str]:
    """The files of a folder that are compared, by relative path, sorted.

    Raises:
        FetchError: it is no folder.
    """
    return [name for name in files.names_in(folder) if is_compared(name)]


def is_compared(name: str) -> bool:
    """Whether a file of a checkpoint's folder is compared, by its relative path."""
    return name.partition("/")[0] not in OUTSIDE


def _side(places: Mapping[str, Path]) -> Side[Tensor]:
    tensors: list[Entry[Tensor]] = []
    unreadable = {}
    for name, path in places.items():
        if name.endswith(WEIGHTS):
            try:
                tensors += [_entry(name, one) for one in tensorfile.read_header(path)]
            except TensorFileError as error:
                unreadable[name] = str(error)
    return Side(files=[*places], tensors=tensors, unreadable=unreadable)


def _entry(file: str, tensor: Tensor) -> Entry[Tensor]:
    return Entry(
        name=tensor.name, dtype=tensor.dtype, shape=tensor.shape, file=file, content=tensor
    )


def _equal_files(
    before: Mapping[str, Path],
    after: Mapping[str, Path],
    names: Sequence[str],
    written: Mapping[str, str],
) -> set[str]:
    """Those of the files of both that have the same bytes."""
    total = sum(before[name].stat().st_size for name in names)
    with console.bytes_bar("compare", total) as advance:
        return {
            name for name in names if _same(before[name], after[name], written.get(name), advance)
        }


def _same(one: Path, other: Path, written: str | None, advance: Callable[[int], None]) -> bool:
    """Whether two files have the same bytes; of the first the digest may be known."""
    if one.stat().st_size != other.stat().st_size:
        return False
    if written is not None:
        return files.sha256_of(other, advance=advance) == written
    with one.open("rb") as left, other.open("rb") as right:
        while chunk := left.read(files.CHUNK):
            if right.read(files.CHUNK) != chunk:
                return False
            advance(len(chunk))
    return True


def _judge(
    before: Side[Content],
    after: Side[Content],
    equal: Collection[str],
    measure: Measure[Content],
) -> Comparison:
    matched = _match(before.tensors, after.tensors)
    unmatched = [*matched.missing, *matched.extra]
    differing = [(pair, one) for pair in matched.pairs if (one := measure(*pair)) is not None]
    faulty = {entry.file for entry in unmatched} | {e.file for pair, _ in differing for e in pair}
    found = [
        *(one for _, one in differing),
        *map(difference.missing, matched.missing),
        *map(difference.extra, matched.extra),
    ]
    return Comparison(
        files=tuple(
            File(
                path=path,
                verdict=_verdict(path, before, after, equal, faulty),
                detail=before.unreadable.get(path) or after.unreadable.get(path, ""),
            )
            for path in sorted({*before.files, *after.files})
        ),
        tensors=tuple(sorted(found, key=lambda one: (one.name, one.file))),
        compared=len(matched.pairs) + len(unmatched),
    )


def _match(before: Sequence[Entry[Content]], after: Sequence[Entry[Content]]) -> Matched[Content]:
    """Finds each tensor's counterpart: in the file of the same name if it is there, else in any.

    Nothing stops a folder from holding a name twice, so what is left over has no counterpart.
    """
    at_home = {(entry.name, entry.file): entry for entry in after}
    pairs = [
        (entry, at_home.pop((entry.name, entry.file)))
        for entry in before
        if (entry.name, entry.file) in at_home
    ]
    settled = {(entry.name, entry.file) for entry, _ in pairs}
    elsewhere = {entry.name: entry for entry in at_home.values()}
    missing = []
    for entry in before:
        if (entry.name, entry.file) in settled:
            continue
        if match := elsewhere.pop(entry.name, None):
            pairs.append((entry, match))
            del at_home[match.name, match.file]
        else:
            missing.append(entry)
    return Matched(pairs=pairs, missing=missing, extra=list(at_home.values()))


def _verdict(
    path: str,
    before: Side[Content],
    after: Side[Content],
    equal: Collection[str],
    faulty: Collection[str],
) -> Verdict:
    if path in equal:
        return "identical"
    one, other = before.names(path), after.names(path)
    readable = path not in before.unreadable and path not in after.unreadable
    has_tensors = readable and bool(one or other)
    if has_tensors and path not in faulty:
        return "header only" if one == other else "re-sharded"
    if path not in after.files:
        return "missing"
    if path not in before.files:
        return "extra"
    return "tensors differ" if has_tensors else "differs"
