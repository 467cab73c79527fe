"""Checks what is stored, tensor by tensor, against the base and the recipe's rules.

Nothing here trusts the build: names, dtypes and shapes are read from the result's own headers,
bytes from its own files. What the files beside the tensors declare is checked in
:mod:`assay.checks.declared`.
"""

from collections.abc import Collection, Iterable, Mapping
from math import isfinite
from pathlib import Path

import numpy as np

from assay.checks import declared
from assay.checks.declared import first, json_object
from forge.core.errors import TensorFileError
from forge.manifest.verification import Check
from forge.recipes.recipe import Recipe
from forge.tensors import quantization_error, tensorfile
from forge.tensors.checkpoint import Checkpoint
from forge.tensors.formats import Loader
from forge.tensors.plan import MTP, Plan
from forge.tensors.tensorfile import Tensor

Tensors = Mapping[str, Tensor]


def run(made: Checkpoint, folder: Path, inputs: Path) -> list[Check]:
    """Every structural check, in order.

    Args:
        made: the checkpoint that the recipe makes of the base.
        folder: the checkpoint that is there.
        inputs: what the fetch step left.
    """
    recipe, plan, base = made.recipe, made.plan, made.base
    try:
        stored = tensorfile.read_checkpoint(folder)
    except TensorFileError as error:
        return [Check(name="structure.index", passed=False, detail=str(error))]
    checks = [
        check_index(folder, stored),
        check_names(plan, recipe.mtp.tensors if made.head_source else (), stored),
        check_mtp(recipe, made.head_source, made.head, stored),
        check_kept(plan, base, stored),
        check_quantized(plan, stored),
        check_scales(plan, stored),
        declared.check_ignore(recipe, plan, folder, stored),
        declared.check_config(recipe, folder),
        declared.check_files(recipe, folder, inputs),
    ]
    if all(check.passed for check in checks):  # then there are weights to look at
        checks.append(check_weights(plan, base, stored, recipe.layout.loader))
    return checks


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


def check_mtp(recipe: Recipe, source: str | None, head: Tensors, stored: Tensors) -> Check:
    """The MTP head is there, whole, and byte-equal to its source, or nowhere if it is dropped."""
    if source is not None:
        return _check_equal("structure.mtp", recipe.mtp.tensors, head, stored)
    left = sorted(name for name in stored if name.startswith(MTP))
    return Check(
        name="structure.mtp",
        passed=not left,
        detail=f"dropped on purpose; {len(left)} of its tensors stored{first(left)}",
        measured={"dropped": len(recipe.mtp.tensors), "stored": len(left)},
    )


def check_kept(plan: Plan, base: Tensors, stored: Tensors) -> Check:
    """Vision tower, head, embeddings, norms, convolutions: byte-equal to the base."""
    return _check_equal("structure.kept", plan.keep, base, stored)


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


def check_scales(plan: Plan, stored: Tensors) -> Check:
    """Every scale is finite and positive; one zero or NaN silences or poisons a block."""
    wrong = []
    count = 0
    for linear in plan.linears.values():
        for suffix, read in linear.format.scales.items():
            tensor = stored.get(f"{linear.module}.{suffix}")
            if tensor is None:
                wrong.append(f"{linear.module}.{suffix}")
                continue
            for chunk in tensor.chunks():
                values = read(chunk)
                count += values.size
                if not np.all(np.isfinite(values) & (values > 0)):
                    wrong.append(tensor.name)
                    break
    return Check(
        name="structure.scales",
        passed=not wrong,
        detail=f"{len(wrong)} scale tensors that are missing, or not finite and positive"
        f"{first(wrong)}",
        measured={"scales": count},
    )


def check_weights(plan: Plan, base: Tensors, stored: Tensors, loader: Loader) -> Check:
    """Every quantized linear stands for the base's weight, but for what its format rounds.

    Codes in another order, scales of another block, linears or experts that changed places: all of
    them are off by as much as the weight itself, however little a perplexity shows of it.
    """
    errors = quantization_error.measure(plan, base, stored, loader)
    wrong = [
        f"{error.module} by {error.relative:.2g}"
        for error in errors
        if error.relative > plan.linears[error.module].format.rounding
    ]
    worst = max(errors, key=lambda error: error.relative)
    return Check(
        name="structure.weights",
        passed=not wrong,
        detail=f"{len(wrong)} of {len(errors)} linears off by more than rounding explains"
        f"{first(wrong)}; the worst by {worst.relative:.2g} of its norm",
        measured={
            "linears": len(errors),
            "worst": worst.module,
            # JSON has no infinity.
            "relative": round(worst.relative, 4) if isfinite(worst.relative) else None,
        },
    )


def _check_equal(name: str, names: Iterable[str], source: Tensors, stored: Tensors) -> Check:
    names = list(names)
    wrong = [tensor for tensor in names if not _same(source.get(tensor), stored.get(tensor))]
    size = sum(stored[tensor].nbytes for tensor in names if tensor in stored)
    return Check(
        name=name,
        passed=not wrong,
        detail=f"{len(names) - len(wrong)} of {len(names)} tensors equal the source byte for byte"
        f"{first(wrong)}",
        measured={"tensors": len(names), "equal": len(names) - len(wrong), "bytes": size},
    )


def _same(source: Tensor | None, stored: Tensor | None) -> bool:
    if source is None or stored is None:
        return False
    if (source.dtype, source.shape) != (stored.dtype, stored.shape):
        return False
    return all(a == b for a, b in zip(source.chunks(), stored.chunks(), strict=True))
