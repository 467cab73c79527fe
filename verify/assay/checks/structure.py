"""Checks what is stored, tensor by tensor, against the base and the recipe's rules.

Nothing here trusts the build: names, dtypes and shapes are read from the result's own headers,
bytes from its own files, once (:mod:`assay.checks.reading`). What the files beside the tensors
declare is checked in :mod:`assay.checks.declared`.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from assay.checks import declared, reading
from assay.checks.declared import json_object
from assay.checks.reading import Reading, Tensors
from forge.core.errors import TensorFileError
from forge.core.results import Result
from forge.manifest import verification
from forge.manifest.measured import Figures
from forge.manifest.names import DOCUMENTS
from forge.manifest.stored_figures import (
    Digests,
    Head,
    Index,
    Kept,
    Names,
    Quantized,
    Scales,
    Siblings,
    Sources,
    Weights,
)
from forge.manifest.verification import Check, UnmeasuredError
from forge.recipes.recipe import Recipe
from forge.tensors import admission, figures, tensorfile
from forge.tensors.checkpoint import Checkpoint
from forge.tensors.configs import CONFIG
from forge.tensors.family import Config
from forge.tensors.plan import MTP, Plan
from forge.tensors.weight_errors import Error


@dataclass(frozen=True, kw_only=True)
class Listed:
    """The sha256 that a checkpoint's files and tensors had when they were written."""

    files: Mapping[str, str]
    tensors: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Every structural check, in order, and the error of each linear, if they got so far."""

    checks: list[Check[Any, Any]]
    errors: Sequence[Error] = ()


def run(made: Checkpoint, folder: Path, fetched: Result, listed: Listed) -> Findings:
    """Reads the checkpoint and what it was made from once, and judges.

    Args:
        made: the checkpoint that the recipe makes of the base.
        folder: the checkpoint that is there.
        fetched: the inputs.
        listed: what was written.
    """
    recipe, plan = made.recipe, made.plan
    try:
        stored = tensorfile.read_checkpoint(folder)
    except TensorFileError as error:
        return Findings(checks=[verification.failed("structure.index", str(error))])
    files = declared.files_of(folder)
    weights = {tensor.file.name for tensor in stored.values()}
    seen = reading.read(made, folder, stored, [name for name in files if name not in weights])
    looks: dict[str, Callable[[], Figures]] = {
        "structure.index": lambda: index(folder, stored),
        "structure.names": lambda: names(
            plan, recipe.mtp.tensors if made.head_source else (), stored
        ),
        "structure.digests": lambda: digests(seen, listed),
        "structure.sources": lambda: Sources(tensors=seen.sources, wrong=tuple(seen.moved)),
        "structure.mtp": lambda: head(recipe, made.head_source, seen, stored),
        "structure.kept": lambda: kept(plan, seen, stored),
        "structure.quantized": lambda: quantized(plan, stored),
        "structure.scales": lambda: scales(seen),
        "structure.siblings": lambda: siblings(plan, seen),
        "structure.parallel": lambda: figures.devices(recipe, plan, _config(fetched)),
        "structure.ignore": lambda: declared.ignore(recipe, plan, folder, stored),
        "structure.config": lambda: declared.config(recipe, folder),
        "structure.files": lambda: declared.files(made, folder, fetched, seen.files),
    }
    checks = [verification.check(name, recipe, look) for name, look in looks.items()]
    if all(check.passed for check in checks):  # then there are weights to look at
        checks.append(verification.check("structure.weights", recipe, lambda: errors(plan, seen)))
    return Findings(checks=checks, errors=seen.errors)


def _config(fetched: Result) -> Config:
    return admission.read_config(fetched.files / "base" / CONFIG)


def index(checkpoint: Path, stored: Tensors) -> Index:
    """Index and files agree, `total_size` included (read_checkpoint has compared the names)."""
    path = checkpoint / tensorfile.INDEX
    actual = sum(tensor.nbytes for tensor in stored.values())
    declared = json_object(path, "metadata").get("total_size") if path.is_file() else actual
    return Index(
        tensors=len(stored), bytes=actual, declared=declared if type(declared) is int else None
    )


def names(plan: Plan, head: Collection[str], stored: Tensors) -> Names:
    """Exactly the expected tensors are stored: none missing, none extra, none that is removed."""
    expected = {*plan.keep, *head}
    for linear in plan.linears.values():
        expected |= {spec.name for spec in linear.format.specs(linear.module, linear.place.shape)}
    return Names(
        expected=len(expected),
        stored=len(stored),
        removed=len(plan.removed),
        missing=tuple(sorted(expected - stored.keys())),
        extra=tuple(sorted(stored.keys() - expected)),
    )


def digests(seen: Reading, listed: Listed) -> Digests:
    """Files and tensors have the digests that were taken while they were written."""
    # A release has documents beside what was written.
    files = {name: digest for name, digest in seen.files.items() if name not in DOCUMENTS}
    files |= {name: seen.files[name] for name in listed.files.keys() & seen.files.keys()}
    wrong = [
        name
        for found, written in ((files, listed.files), (seen.tensors, listed.tensors))
        for name in sorted(found.keys() | written.keys())
        if found.get(name) != written.get(name)
    ]
    return Digests(files=len(files), tensors=len(seen.tensors), wrong=tuple(wrong))


def head(recipe: Recipe, source: str | None, seen: Reading, stored: Tensors) -> Head:
    """The MTP head is there, whole, and byte-equal to its source, or nowhere if it is dropped."""
    if source is None:
        there = wrong = sorted(name for name in stored if name.startswith(MTP))
        equal = 0
    else:
        there = [name for name in recipe.mtp.tensors if name in stored]
        wrong = sorted(seen.unequal.intersection(recipe.mtp.tensors))
        equal = len(recipe.mtp.tensors) - len(wrong)
    return Head(
        tensors=len(recipe.mtp.tensors),
        stored=len(there),
        equal=equal,
        bytes=sum(stored[name].nbytes for name in there),
        wrong=tuple(wrong),
    )


def kept(plan: Plan, seen: Reading, stored: Tensors) -> Kept:
    """Vision tower, head, embeddings, norms, convolutions: byte-equal to the base."""
    wrong = tuple(name for name in plan.keep if name in seen.unequal)
    return Kept(
        tensors=len(plan.keep),
        equal=len(plan.keep) - len(wrong),
        bytes=sum(stored[name].nbytes for name in plan.keep if name in stored),
        wrong=wrong,
    )


def quantized(plan: Plan, stored: Tensors) -> Quantized:
    """Every quantized linear has the tensors of its format with the right dtypes and shapes."""
    wrong = []
    count = 0
    for linear in plan.linears.values():
        for spec in linear.format.specs(linear.module, linear.place.shape):
            count += 1
            found = stored.get(spec.name)
            if found is None or (found.dtype, found.shape) != (spec.dtype, spec.shape):
                wrong.append(spec.name)
    return Quantized(linears=len(plan.linears), tensors=count, wrong=tuple(wrong))


def scales(seen: Reading) -> Scales:
    """Every scale is one that an engine can multiply with, or divide by; global ones are told."""
    values = {name: np.frombuffer(data, "<f4")[0] for name, data in seen.global_scales.items()}
    wrong = [f"{name} = {values[name]}" if name in values else name for name in seen.bad]
    return Scales(scales=seen.scales, wrong=tuple(wrong))


def siblings(plan: Plan, seen: Reading) -> Siblings:
    """Linears that engines fuse have equal global scales: an engine takes one of them for all."""
    several = figures.fused_scales(plan)
    wrong = [
        scale
        for scale, names in several.items()
        if len({seen.global_scales.get(name) for name in names}) > 1
    ]
    return Siblings(fused=len(several), wrong=tuple(wrong))


def errors(plan: Plan, seen: Reading) -> Weights:
    """Every quantized linear stands for the base's weight, but for what its format rounds.

    Codes in another order, scales of another block, linears or experts that changed places: all of
    them are off by as much as the weight itself, however little a perplexity shows of it.
    """
    if len(seen.errors) != len(plan.linears):
        raise UnmeasuredError(f"{len(seen.errors)} of {len(plan.linears)} linears have an error")
    return figures.weights(seen.errors)
