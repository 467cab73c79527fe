"""Which modules SGLang and transformers take for quantized, as `vllm_names` says it of vLLM.

The rules are on names alone. A layer that a reader takes for something else than what is stored
stops it: the shapes of its parameters are others.

SGLang (main, commit 005fa711 of 2026) keeps the checkpoint's names, and fuses what vLLM fuses.

- It never quantizes the vision tower, `lm_head`, routers and the head's `fc`. Under ModelOpt's
  NVFP4 it quantizes neither attention nor gated delta nets nor the MTP head either.
- modelopt: an entry of the ignore list excludes a layer that it names, all of whose parts it
  names, or which it covers as a glob, whole or in one part of the dotted name.
- compressed-tensors: an entry without `re:` covers every name that it lies in, in any case. The
  parts of a fused layer have to agree. A layer without any target stops it.

Sources: `models/qwen3_5.py`, `models/qwen3_5_mtp.py`, `models/qwen3_vl.py`, and
`layers/quantization/`: `modelopt_quant.py`, `utils.py`, `compressed_tensors/`.

transformers 5.17 has the checkpoint's own modules, and neither an MTP head nor ModelOpt's formats:
it skips those with a warning. In compressed-tensors, entries are names, names of classes, or, with
`re:`, regular expressions that match from the start. Experts have the first group with a `re:`
target in which `experts` stands.

Sources: `quantizers/` and `integrations/compressed_tensors.py` of transformers, `utils/match.py`
and `quantization/lifecycle/apply.py` of compressed-tensors 0.19.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final

from forge.tensors.vllm_names import DISPUTED, HEAD, REGEX, Modules, covers, engine_layer

SGLANG: Final = "sglang"
TRANSFORMERS: Final = "transformers"
READERS: Final = (SGLANG, TRANSFORMERS)

_MODELOPT = "modelopt"
_EXPERTS = ".experts"
_LINEARS = ("gate_proj", "up_proj", "down_proj")
_NEVER = re.compile(r"lm_head|mtp\.fc|.*\.mlp\.(shared_expert_)?gate|model\.visual\..*")
_NEVER_BY_MODELOPT = re.compile(r"mtp\..*|.*\.(self_attn|linear_attn)\..*")
# What the class of a layer is called by those who match it.
_CLASSES = {
    "qkv_proj": "QKVParallelLinear",
    **dict.fromkeys(("gate_up_proj", "in_proj_qkvz", "in_proj_ba"), "MergedColumnParallelLinear"),
}


def mistaken(config: Mapping[str, Any], modules: Modules) -> dict[str, list[str]]:
    """By reader, the layers that it takes for something else than they are, sorted.

    Args:
        config: the `quantization_config` of a checkpoint.
        modules: the format of each linear, as :func:`forge.tensors.vllm_names.mistaken` takes them.
    """
    stored: dict[str, set[str | None]] = defaultdict(set)
    for name, kind in modules.items():
        stored[engine_layer(name)].add(kind)
    by_sglang = sglang(config, modules)
    by_transformers = transformers(config, modules)
    return {
        SGLANG: sorted(name for name, kind in by_sglang.items() if stored[name] != {kind}),
        TRANSFORMERS: sorted(n for n, kind in by_transformers.items() if modules[n] != kind),
    }


def sglang(config: Mapping[str, Any], modules: Modules) -> dict[str, str | None]:
    """What SGLang takes each layer for, by its names: a format's label, None, or DISPUTED."""
    ignore = [str(entry) for entry in config.get("ignore") or ()]
    layers: dict[str, list[str]] = defaultdict(list)
    for name in modules:
        layers[engine_layer(name)].append(name)
    if config.get("quant_method") == _MODELOPT:
        algorithm = str(config.get("quant_algo"))
        return {
            layer: _modelopt(layer, parts, ignore, algorithm) for layer, parts in layers.items()
        }
    groups = _targets(config)
    return {
        layer: None if _NEVER.fullmatch(layer) else _compressed(layer, parts, ignore, groups)
        for layer, parts in layers.items()
    }


def transformers(config: Mapping[str, Any], modules: Modules) -> dict[str, str | None]:
    """What transformers takes each linear for that it has: a format's label, or None."""
    body = [name for name in modules if not name.startswith(HEAD)]
    if config.get("quant_method") == _MODELOPT:
        return dict.fromkeys(body)
    ignore = [str(entry) for entry in config.get("ignore") or ()]
    groups = _targets(config)
    experts = next(
        (kind for target, kind in groups if target.startswith(REGEX) and "experts" in target),
        groups[0][1] if groups else None,
    )
    # Names come before regular expressions, each in the order of the alphabet.
    in_order = sorted(groups, key=lambda group: (REGEX in group[0], group[0]))
    taken = {}
    for name in body:
        if engine_layer(name).endswith(_EXPERTS):
            taken[name] = experts if name != engine_layer(name) else None
        elif any(entry == "Linear" or covers(entry, name) for entry in ignore):
            taken[name] = None
        else:
            named = (kind for target, kind in in_order if covers(target, name))
            classed = (kind for target, kind in in_order if target == "Linear")
            taken[name] = next(named, next(classed, None))
    return taken


def _targets(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        (str(target), str(group["format"]))
        for group in config["config_groups"].values()
        for target in group["targets"]
    ]


def _modelopt(
    layer: str, parts: Sequence[str], ignore: Sequence[str], algorithm: str
) -> str | None:
    if _NEVER.fullmatch(layer) or _NEVER_BY_MODELOPT.fullmatch(layer):
        return None
    if not layer.endswith(_EXPERTS):
        named = {part in ignore for part in parts}
        if len(named) > 1:
            return DISPUTED
        if named == {True} or (parts == [layer] and layer in ignore):
            return None
    globs = [entry.replace(".", r"\.").replace("*", ".*") for entry in ignore]
    pieces = (layer, *layer.split("."))
    covered = any(re.fullmatch(glob, piece) for glob in globs for piece in pieces)
    return None if covered else algorithm


def _compressed(
    layer: str, parts: Sequence[str], ignore: Sequence[str], groups: Sequence[tuple[str, str]]
) -> str | None:
    if layer.endswith(_EXPERTS):
        asked = [f"{layer}.0.{linear}" for linear in _LINEARS]
        found = {_one(name, [name], ignore, groups) for name in asked}
        return found.pop() if len(found) == 1 else DISPUTED
    return _one(layer, parts, ignore, groups)


def _one(
    layer: str, parts: Sequence[str], ignore: Sequence[str], groups: Sequence[tuple[str, str]]
) -> str | None:
    asked = [layer] if layer in ignore else parts
    ignored = {any(_lies_in(entry, name) for entry in ignore) for name in asked}
    if len(ignored) > 1:
        return DISPUTED
    if ignored == {True}:
        return None
    kind = _CLASSES.get(layer.rpartition(".")[2], "ColumnParallelLinear")
    named = (label for target, label in groups if covers(target, layer))
    classed = (label for target, label in groups if _lies_in(target, kind))
    of_parts = [next((label for t, label in groups if covers(t, part)), None) for part in parts]
    found = next(named, None) or next(classed, None)
    return found or (of_parts[0] if all(of_parts) else None) or DISPUTED


def _lies_in(entry: str, name: str) -> bool:
    return covers(entry, name) if entry.startswith(REGEX) else entry.lower() in name.lower()
