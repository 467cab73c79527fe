"""Checks what is stored, tensor by tensor, against the base and the recipe's rules.

Nothing here trusts the build: names, dtypes and shapes are read from the result's own headers,
bytes from its own files, once (:mod:`assay.checks.reading`). What the files beside the tensors
declare is checked in :mod:`assay.checks.declared`.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

from assay.checks import declared, reading
from assay.checks.declared import first, json_object
from assay.checks.reading import Reading
from forge.core.errors import TensorFileError
from forge.core.store import Result
from forge.manifest.names import DOCUMENTS
from forge.manifest.verification import Check
from forge.recipes.recipe import Recipe
from forge.tensors import tensorfile, vllm_names
from forge.tensors.checkpoint import Checkpoint
from forge.tensors.plan import MTP, Plan
from forge.tensors.quantization_error import Error
from forge.tensors.tensorfile import Tensor

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Listed:
    """The sha256 that a checkpoint's files and tensors had when they were written."""

    files: Mapping[str, str]
    tensors: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Found:
    """Every structural check, in order, and the error of each linear, if they got so far."""

    checks: list[Check]
    errors: Sequence[Error] = ()


def run(made: Checkpoint, folder: Path, fetched: Result, listed: Listed) -> Found:
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
        return Found(checks=[Check(name="structure.index", passed=False, detail=str(error))])
    files = declared.files_of(folder)
    weights = {tensor.file.name for tensor in stored.values()}
    seen = reading.read(made, folder, stored, [name for name in files if name not in weights])
    checks = [
        check_index(folder, stored),
        check_names(plan, recipe.mtp.tensors if made.head_source else (), stored),
        check_digests(seen, listed),
        check_sources(seen),
        check_mtp(recipe, made.head_source, seen, stored),
        check_kept(plan, seen, stored),
        check_quantized(plan, stored),
        check_scales(seen),
        check_siblings(plan, seen),
        declared.check_ignore(recipe, plan, folder, stored),
        declared.check_config(recipe, folder),
        declared.check_files(recipe, folder, fetched, seen.files),
    ]
    if all(check.passed for check in checks):  # then there are weights to look at
        checks.append(check_weights(plan, seen))
    return Found(checks=checks, errors=seen.errors)


def check_index(checkpoint: Path, stored: Tensors) -> Check:
    """Index and files agree, `total_size` included (read_checkpoint has compared the names)."""
    index = checkpoint / tensorfile.INDEX
    actual = sum(tensor.nbytes for tensor in stored.values())
    listed = json_object(index, "metadata").get("total_size") if index.is_file() else actual
    return Check(
        name="structure.index",
        passed=listed == actual,
        detail=f"index declares {listed} bytes of tensors, the files hold {actual}",
        measured={"tensors": len(stored), "bytes": actual, "declared": listed},
    )


def check_names(plan: Plan, head: Collection[str], stored: Tensors) -> Check:
    """Exactly the expected tensors are stored: none missing, none extra, none that is removed."""
    expected = {*plan.keep, *head}
    for linear in plan.linears.values():
        expected |= {spec.name for spec in linear.format.specs(linear.module, linear.place.shape)}
    missing, extra = sorted(expected - stored.keys()), sorted(stored.keys() - expected)
    return Check(
        name="structure.names",
        passed=not missing and not extra,
        detail=f"{len(missing)} missing{first(missing)}, {len(extra)} extra{first(extra)}; "
        f"{len(plan.removed)} of the base removed",
        measured={
            "expected": len(expected), "stored": len(stored), "removed": len(plan.removed)
        },
    )  # fmt: skip


def check_digests(seen: Reading, listed: Listed) -> Check:
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
    return Check(
        name="structure.digests",
        passed=not wrong,
        detail=f"{len(wrong)} files and tensors are not what was written{first(wrong)}",
        measured={"files": len(files), "tensors": len(seen.tensors)},
    )


def check_sources(seen: Reading) -> Check:
    """What the result is compared with is what was fetched."""
    return Check(
        name="structure.sources",
        passed=not seen.moved,
        detail=f"{len(seen.moved)} of {seen.sources} tensors of base and donor changed since they "
        f"were fetched{first([*seen.moved])}",
        measured={"tensors": seen.sources},
    )


def check_mtp(recipe: Recipe, source: str | None, seen: Reading, stored: Tensors) -> Check:
    """The MTP head is there, whole, and byte-equal to its source, or nowhere if it is dropped."""
    if source is not None:
        return _check_equal("structure.mtp", recipe.mtp.tensors, seen, stored)
    left = sorted(name for name in stored if name.startswith(MTP))
    return Check(
        name="structure.mtp",
        passed=not left,
        detail=f"dropped on purpose; {len(left)} of its tensors stored{first(left)}",
        measured={"dropped": len(recipe.mtp.tensors), "stored": len(left)},
    )


def check_kept(plan: Plan, seen: Reading, stored: Tensors) -> Check:
    """Vision tower, head, embeddings, norms, convolutions: byte-equal to the base."""
    return _check_equal("structure.kept", plan.keep, seen, stored)


def check_quantized(plan: Plan, stored: Tensors) -> Check:
    """Every quantized linear has the tensors of its format with the right dtypes and shapes."""
    wrong = []
    count = 0
    for linear in plan.linears.values():
        for spec in linear.format.specs(linear.module, linear.place.shape):
            count += 1
            found = stored.get(spec.name)
            if found is None or (found.dtype, found.shape) != (spec.dtype, spec.shape):
                wrong.append(spec.name)
    return Check(
        name="structure.quantized",
        passed=not wrong,
        detail=f"{len(wrong)} of {count} tensors with a wrong dtype or shape{first(wrong)}",
        measured={"linears": len(plan.linears), "tensors": count},
    )


def check_scales(seen: Reading) -> Check:
    """Every scale is finite and positive; one zero or NaN silences or poisons a block."""
    return Check(
        name="structure.scales",
        passed=not seen.bad,
        detail=f"{len(seen.bad)} scale tensors that are missing, or not finite and positive"
        f"{first([*seen.bad])}",
        measured={"scales": seen.scales},
    )


def check_siblings(plan: Plan, seen: Reading) -> Check:
    """Linears that engines fuse have equal global scales: an engine takes one of them for all."""
    fused: dict[str, list[str]] = defaultdict(list)
    for module, linear in plan.linears.items():
        for suffix in linear.format.global_scales:
            fused[f"{vllm_names.fused(module)}.{suffix}"].append(f"{module}.{suffix}")
    several = {scale: names for scale, names in fused.items() if len(names) > 1}
    wrong = [
        scale
        for scale, names in several.items()
        if len({seen.global_scales.get(name) for name in names}) > 1
    ]
    return Check(
        name="structure.siblings",
        passed=not wrong,
        detail=f"{len(wrong)} of {len(several)} global scales differ among the linears that "
        f"engines fuse{first(wrong)}",
        measured={"fused": len(several), "differing": len(wrong)},
    )


def check_weights(plan: Plan, seen: Reading) -> Check:
    """Every quantized linear stands for the base's weight, but for what its format rounds.

    Codes in another order, scales of another block, linears or experts that changed places: all of
    them are off by as much as the weight itself, however little a perplexity shows of it.
    """
    errors = seen.errors
    wrong = [
        f"{error.module} by {error.relative:.2g}"
        for error in errors
        if error.relative > plan.linears[error.module].format.rounding
    ]
    worst = max(errors, key=lambda error: error.relative)
    zeros = [error.module for error in errors if error.squared_norm == 0]
    told = f"; {len(zeros)} are zero in the base{first(zeros)}" if zeros else ""
    return Check(
        name="structure.weights",
        passed=not wrong and len(errors) == len(plan.linears),
        detail=f"{len(wrong)} of {len(errors)} linears off by more than rounding explains"
        f"{first(wrong)}; the worst by {worst.relative:.2g} of its norm{told}",
        measured={
            "linears": len(errors),
            "worst": worst.module,
            # JSON has no infinity.
            "relative": round(worst.relative, 4) if isfinite(worst.relative) else None,
        },
    )


def _check_equal(name: str, names: Iterable[str], seen: Reading, stored: Tensors) -> Check:
    names = list(names)
    wrong = [tensor for tensor in names if tensor in seen.unequal]
    size = sum(stored[tensor].nbytes for tensor in names if tensor in stored)
    return Check(
        name=name,
        passed=not wrong,
        detail=f"{len(names) - len(wrong)} of {len(names)} tensors equal the source byte for byte"
        f"{first(wrong)}",
        measured={"tensors": len(names), "equal": len(names) - len(wrong), "bytes": size},
    )
