"""Checks what is stored, tensor by tensor, against the base and the recipe's rules.

Nothing here trusts the build: names, dtypes and shapes are read from the result's own headers,
bytes from its own files, and both ignore lists are compared with what is really not quantized.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from assay.checks import Check
from forge import canonical, nvfp4, rules, tensorfile
from forge.errors import TensorFileError
from forge.layout import CONFIG, QUANT_CONFIG, TEMPLATE, ignored_modules, quantized_specs
from forge.recipe import Recipe
from forge.rules import WEIGHT, Plan
from forge.tensorfile import Tensor

Tensors = Mapping[str, Tensor]
Values = npt.NDArray[np.float32]
# Nothing that an engine would execute or unpickle belongs into a release.
FORBIDDEN = {".py", ".bin", ".pt", ".pth", ".pkl", ".ckpt", ".so"}


def run(recipe: Recipe, checkpoint: Path, inputs: Path) -> list[Check]:
    """Every structural check, in order; `inputs` is what the fetch step left."""
    base = tensorfile.read_checkpoint(inputs / "base")
    source = tensorfile.read_checkpoint(inputs / recipe.mtp.source)
    plan = rules.plan(recipe, base)
    try:
        stored = tensorfile.read_checkpoint(checkpoint)
    except TensorFileError as error:
        return [Check(name="structure.index", passed=False, detail=str(error))]
    return [
        check_index(checkpoint, stored),
        check_names(recipe, plan, stored),
        check_mtp(recipe, source, stored),
        check_kept(plan, base, stored),
        check_quantized(plan, base, stored),
        check_scales(plan, stored),
        check_ignore(checkpoint, stored),
        check_files(recipe, checkpoint, inputs),
    ]


def check_index(checkpoint: Path, stored: Tensors) -> Check:
    """Index and files agree, `total_size` included (read_checkpoint has compared the names)."""
    index = checkpoint / tensorfile.INDEX
    actual = sum(tensor.nbytes for tensor in stored.values())
    declared = _object(index, "metadata").get("total_size") if index.is_file() else actual
    return Check(
        name="structure.index",
        passed=declared == actual,
        detail=f"index declares {declared} bytes of tensors, the files hold {actual}",
        measured={"tensors": len(stored), "bytes": actual, "declared": declared},
    )


def check_names(recipe: Recipe, plan: Plan, stored: Tensors) -> Check:
    """Exactly the expected tensors are stored: none missing, none extra."""
    expected = {*plan.keep, *recipe.mtp.tensors}
    for module in plan.quantized:
        expected |= {spec.name for spec in quantized_specs(module, 1, nvfp4.BLOCK)}
    missing, extra = sorted(expected - stored.keys()), sorted(stored.keys() - expected)
    return Check(
        name="structure.names",
        passed=not missing and not extra,
        detail=f"{len(missing)} missing{_first(missing)}, {len(extra)} extra{_first(extra)}",
        measured={"expected": len(expected), "stored": len(stored)},
    )


def check_mtp(recipe: Recipe, source: Tensors, stored: Tensors) -> Check:
    """The MTP head is there, whole, and byte-equal to its source."""
    return _check_equal("structure.mtp", recipe.mtp.tensors, source, stored)


def check_kept(plan: Plan, base: Tensors, stored: Tensors) -> Check:
    """Vision tower, head, embeddings, norms, convolutions: byte-equal to the base."""
    return _check_equal("structure.kept", plan.keep, base, stored)


def check_quantized(plan: Plan, base: Tensors, stored: Tensors) -> Check:
    """Every quantized linear has its four tensors with the right dtypes and shapes."""
    wrong = []
    count = 0
    for module in plan.quantized:
        for spec in quantized_specs(module, *base[module + WEIGHT].shape):
            count += 1
            found = stored.get(spec.name)
            if found is None or (found.dtype, found.shape) != (spec.dtype, spec.shape):
                wrong.append(spec.name)
    return Check(
        name="structure.quantized",
        passed=not wrong,
        detail=f"{len(wrong)} of {count} tensors with a wrong dtype or shape{_first(wrong)}",
        measured={"linears": len(plan.quantized), "tensors": count},
    )


def check_scales(plan: Plan, stored: Tensors) -> Check:
    """Every scale is finite and positive; one zero or NaN silences or poisons a block."""
    wrong = []
    count = 0
    for module in plan.quantized:
        for suffix, read in _SCALES.items():
            tensor = stored.get(f"{module}.{suffix}")
            if tensor is None:
                wrong.append(f"{module}.{suffix}")
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
        f"{_first(wrong)}",
        measured={"scales": count},
    )


def check_ignore(checkpoint: Path, stored: Tensors) -> Check:
    """Both ignore lists are equal and name exactly the modules that are not quantized."""
    inner = _object(checkpoint / CONFIG, "quantization_config").get("ignore", [])
    outer = _object(checkpoint / QUANT_CONFIG, "quantization").get("exclude_modules", [])
    actual = ignored_modules(stored.values())
    lists = {CONFIG: inner, QUANT_CONFIG: outer}
    wrong = [
        f"{file}: {len(set(actual) - set(listed))} missing, {len(set(listed) - set(actual))} extra"
        f"{_first(sorted(set(actual) ^ set(listed)))}"
        for file, listed in lists.items()
        if sorted(listed) != actual
    ]
    return Check(
        name="structure.ignore",
        passed=not wrong,
        detail="; ".join(wrong) or f"both lists name the {len(actual)} modules not quantized",
        measured={"not_quantized": len(actual), **{file: len(v) for file, v in lists.items()}},
    )


def check_files(recipe: Recipe, checkpoint: Path, inputs: Path) -> Check:
    """The files beside the weights are the base's, edited as the recipe says and no further."""
    base = inputs / "base"
    stored = {
        path.relative_to(checkpoint).as_posix()
        for path in checkpoint.rglob("*")
        if path.is_file() and path.relative_to(checkpoint).parts[0] != "provenance"
    }
    weights = {path for path in stored if path.endswith(".safetensors")}
    carried = {path.name for path in base.iterdir() if path.suffix != ".safetensors"}
    made = {CONFIG, QUANT_CONFIG, TEMPLATE, tensorfile.INDEX}
    wrong = [f"missing {path}" for path in sorted((carried | made) - stored)]
    wrong += [f"extra {path}" for path in sorted(stored - carried - made - weights)]
    wrong += [f"code {path}" for path in sorted(stored) if Path(path).suffix in FORBIDDEN]
    edits = {CONFIG: ("quantization_config",), **recipe.strip}
    for path, keys in edits.items():
        original = {k: v for k, v in _object(base / path).items() if k not in keys}
        edited = _object(checkpoint / path)
        if path == CONFIG:
            edited.pop("quantization_config", None)
        if edited != original:
            wrong.append(f"{path} is not the base's without {', '.join(keys)}")
    sources = {path: base / path for path in carried - made - edits.keys()}
    sources[TEMPLATE] = inputs / "template" / TEMPLATE
    for path in sorted(sources.keys() & stored):
        if (checkpoint / path).read_bytes() != sources[path].read_bytes():
            wrong.append(f"{path} is not {'the recipe' if path == TEMPLATE else 'the base'}'s")
    return Check(
        name="structure.files",
        passed=not wrong,
        detail="; ".join(wrong) or "the base's files, the recipe's template, no code",
        measured={"files": len(stored), "compared": len(sources) + len(edits)},
    )


def _check_equal(name: str, names: Iterable[str], source: Tensors, stored: Tensors) -> Check:
    names = list(names)
    wrong = [tensor for tensor in names if not _same(source.get(tensor), stored.get(tensor))]
    size = sum(stored[tensor].nbytes for tensor in names if tensor in stored)
    return Check(
        name=name,
        passed=not wrong,
        detail=f"{len(names) - len(wrong)} of {len(names)} tensors equal the source byte for byte"
        f"{_first(wrong)}",
        measured={"tensors": len(names), "equal": len(names) - len(wrong), "bytes": size},
    )


def _same(source: Tensor | None, stored: Tensor | None) -> bool:
    if source is None or stored is None:
        return False
    if (source.dtype, source.shape) != (stored.dtype, stored.shape):
        return False
    return all(a == b for a, b in zip(source.chunks(), stored.chunks(), strict=True))


def _object(path: Path, key: str | None = None) -> dict[str, Any]:
    """A JSON object of the checkpoint, or that under `key` of it; empty if it is not there.

    An absent or malformed file is no crash of the assay but a failure of the checks on it.
    """
    try:
        data = canonical.read(path)
        data = data if key is None else data[key]
    except (OSError, ValueError, LookupError, TypeError):
        return {}
    return data if isinstance(data, dict) else {}


def _first(names: list[str]) -> str:
    return f" (first: {names[0]})" if names else ""


def _e4m3(data: bytes) -> Values:
    return nvfp4.E4M3_VALUES[np.frombuffer(data, dtype=np.uint8)]


def _f32(data: bytes) -> Values:
    return np.frombuffer(data, dtype="<f4")


_SCALES: Mapping[str, Callable[[bytes], Values]] = {
    "weight_scale": _e4m3,
    "weight_scale_2": _f32,
    "input_scale": _f32,
}
