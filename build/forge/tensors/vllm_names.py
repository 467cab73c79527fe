"""Which modules an engine takes for quantized, given a checkpoint's quantization config.

The rules are vLLM 0.32's, on names alone. It renames the modules of the body, but not those of
the head, fuses some linears, and asks for each of the layers that come of it:

- modelopt: an entry of the ignore list excludes a layer that it names, whose parts it names, in
  whose name it lies, or that it covers as a glob; a `*` at the end of an entry of the body stands
  for nothing and for `.*`.
- compressed-tensors: a layer has the format of the first target that covers it, or all of its
  parts, unless the ignore list does; `re:` begins a regular expression that matches from the
  start.

Sources: `quantization/modelopt.py` (is_layer_excluded, apply_vllm_mapper), `quantization/utils/
quant_utils.py` (is_layer_skipped), `quantization/compressed_tensors/utils.py`, and
`hf_to_vllm_mapper` and `packed_modules_mapping` of its Qwen3.5 models.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

RENAMED = {
    "model.visual.": "visual.",
    "lm_head.": "language_model.lm_head.",
    "model.language_model.": "language_model.model.",
}
FUSED = {
    "q_proj": "qkv_proj", "k_proj": "qkv_proj", "v_proj": "qkv_proj",
    "gate_proj": "gate_up_proj", "up_proj": "gate_up_proj",
    "in_proj_qkv": "in_proj_qkvz", "in_proj_z": "in_proj_qkvz",
    "in_proj_b": "in_proj_ba", "in_proj_a": "in_proj_ba",
}  # fmt: skip
HEAD = "mtp."
# Every model of the head has the vocabulary's head as a layer of its own.
SHARED = "lm_head"
REGEX = "re:"
# What a layer is taken for of which some parts are listed and some are not: vLLM stops there.
DISPUTED = "disputed"
_LINEARS = ("gate_proj", "up_proj", "down_proj")
_EXPERTS = re.compile(r"(.*\.experts)(?:\.\d+\.[^.]+)?")

# The format of a layer, given its name and those of its parts; None if it is not quantized.
Reading = Callable[[str, Sequence[str]], str | None]
Modules = Mapping[str, str | None]


def target(pattern: str) -> str:
    """The `re:` target of a recipe's pattern over modules, under either name of its modules."""
    head, tail = "", pattern
    for prefix, renamed in RENAMED.items():
        if pattern.startswith(prefix):
            names = (re.escape(name.removesuffix(".")) for name in (prefix, renamed))
            head, tail = rf"({'|'.join(names)})\.", pattern.removeprefix(prefix)
    wild = {"*": r"[^.]+", "**": ".+"}
    parts = (wild.get(part, re.escape(part)) for part in tail.split("."))
    return REGEX + head + r"\.".join(parts) + "$"


def taken(config: Mapping[str, Any], modules: Modules) -> dict[str, str | None]:
    """What an engine takes each layer for, by its own names: a format's label, None, or DISPUTED.

    Args:
        config: the `quantization_config` of a checkpoint.
        modules: the linears by the checkpoint's names, as :func:`mistaken` takes them.
    """
    return {layer: found for layer, found, _ in _layers(config, modules)}


def mistaken(config: Mapping[str, Any], modules: Modules) -> list[str]:
    """The layers that an engine takes for something else than they are, sorted.

    Args:
        config: the `quantization_config` of a checkpoint.
        modules: the format of each linear, as that config calls it, or None, by the checkpoint's
            names. Of experts that lie in one tensor, the module that holds it.
    """
    found = _layers(config, modules)
    return sorted({layer for layer, kind, stored in found if stored != {kind}})


def _layers(
    config: Mapping[str, Any], modules: Modules
) -> list[tuple[str, str | None, set[str | None]]]:
    """Each layer of body and head, what it is taken for, and what its parts are."""
    head = {name: kind for name, kind in modules.items() if name.startswith(HEAD)}
    body = {_renamed(name): kind for name, kind in modules.items() if name not in head}
    if head:
        head |= {name: kind for name, kind in modules.items() if name == SHARED}
    found = []
    for part, renamed in ((body, True), (head, False)):
        reading = _reading(config, renamed=renamed)
        layers: dict[str, list[str]] = defaultdict(list)
        for name in part:
            layers[engine_layer(name)].append(name)
        found += [
            (layer, reading(layer, parts), {part[name] for name in parts})
            for layer, parts in layers.items()
        ]
    return found


def fused(name: str) -> str:
    """The matrix that an engine puts a linear into, of an expert's two as well, or its own name.

    vLLM and SGLang make the same ones. All parts of one have one format and one global scale
    there, the first one's or the largest.
    """
    parent, _, last = name.rpartition(".")
    return f"{parent}.{FUSED[last]}" if last in FUSED else name


def engine_layer(name: str) -> str:
    """The engine's layer that a linear becomes a part of, or its own name."""
    experts = _EXPERTS.fullmatch(name)
    return experts[1] if experts else fused(name)


def _renamed(name: str) -> str:
    dotted = f"{name}."
    for prefix, renamed in RENAMED.items():
        if dotted.startswith(prefix):
            return (renamed + dotted.removeprefix(prefix)).removesuffix(".")
    return name


def _renamed_entry(entry: str) -> str:
    """An entry of a list, of which the engine renames what begins with a whole prefix."""
    for prefix, renamed in RENAMED.items():
        if entry.startswith(prefix):
            return renamed + entry.removeprefix(prefix)
    return entry


def _reading(config: Mapping[str, Any], *, renamed: bool) -> Reading:
    ignore = [str(entry) for entry in config.get("ignore") or ()]
    if config.get("quant_method") == "compressed-tensors":
        groups = [
            (str(target), str(group["format"]))
            for group in config["config_groups"].values()
            for target in group["targets"]
        ]
        if renamed:
            ignore = [e if e.startswith(REGEX) else _renamed_entry(e) for e in ignore]
        return lambda layer, parts: _compressed_tensors(layer, parts, ignore, groups)
    if renamed:
        ignore = [_renamed_entry(part) for entry in ignore for part in _unfolded(entry)]
    algorithm = str(config.get("quant_algo"))
    return lambda layer, parts: _modelopt(layer, parts, ignore, algorithm)


def _unfolded(entry: str) -> tuple[str, ...]:
    folded = entry.endswith("*") and len(entry) > 1 and not entry.endswith(".*")
    return (entry[:-1], f"{entry[:-1]}.*") if folded else (entry,)


def _modelopt(
    layer: str, parts: Sequence[str], ignore: Sequence[str], algorithm: str
) -> str | None:
    if layer.endswith(".experts"):
        named = any(layer in entry for entry in ignore)
    else:
        named = layer in ignore or all(part in ignore for part in parts)
        if not named and any(part in ignore for part in parts):
            return DISPUTED
    if named or any(entry in layer or fnmatchcase(layer, entry) for entry in ignore):
        return None
    return algorithm


def _compressed_tensors(
    layer: str, parts: Sequence[str], ignore: Sequence[str], groups: Sequence[tuple[str, str]]
) -> str | None:
    def scheme(name: str) -> str | None:
        return next((kind for entry, kind in groups if covers(entry, name)), None)

    if layer.endswith(".experts"):  # it asks for each linear of an expert, never for all at once
        linears = parts if parts != [layer] else [f"{layer}.0.{linear}" for linear in _LINEARS]
        found = {None if _covered(name, ignore) else scheme(name) for name in linears}
        return found.pop() if len(found) == 1 else DISPUTED
    covered = {_covered(part, ignore) for part in parts}
    if _covered(layer, ignore) or covered == {True}:
        return None
    if len(covered) > 1:
        return DISPUTED
    of_parts = [scheme(part) for part in parts]
    return scheme(layer) or (of_parts[0] if all(of_parts) else None)


def _covered(name: str, entries: Sequence[str]) -> bool:
    return any(covers(entry, name) for entry in entries)


def covers(entry: str, name: str) -> bool:
    """Whether a name is an entry of a list of compressed-tensors, or matches it from the start."""
    if entry.startswith(REGEX):
        return re.match(entry.removeprefix(REGEX), name) is not None
    return entry == name
