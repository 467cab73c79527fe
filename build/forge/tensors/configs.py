"""What engines read beside the tensors: both quantization configs, and what they list.

What the writer produces and the assay expects is defined here once. Engines read it as
`model_executor/layers/quantization/modelopt.py` and `.../compressed_tensors/` of vLLM do.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from forge.recipes.recipe import Recipe
from forge.tensors import formats, vllm_names
from forge.tensors.plan import WEIGHT, Plan
from forge.tensors.small_floats import BLOCK
from forge.tensors.tensorfile import INDEX, Spec, Tensor

CONFIG = "config.json"
QUANT_CONFIG = "hf_quant_config.json"
TEMPLATE = "chat_template.jinja"
SCALE = ".weight_scale"
LOOKED_UP = ("embed_tokens", "pos_embed")
# A constant scale of one, which stores no tensor.
_FP8_CACHE = {"dynamic": False, "num_bits": 8, "type": "float"}


def ignored_modules(tensors: Iterable[Spec | Tensor]) -> list[str]:
    """The modules with a parameter of two or more dimensions that is not quantized, sorted.

    Exact names, no patterns: an engine that meets a module which is neither quantized nor listed
    must fail, not guess. Fused experts have no `.weight`; theirs is the module that holds them.
    """
    tensors = list(tensors)
    quantized = {t.name.removesuffix(SCALE) for t in tensors if t.name.endswith(SCALE)}
    modules = {t.name.rpartition(".")[0] for t in tensors if len(t.shape) >= 2}
    return sorted(modules - quantized)


def linears(tensors: Iterable[Spec | Tensor], plan: Plan) -> dict[str, str | None]:
    """What an engine must take each linear for: the label of its format, or None.

    Of what is not quantized these are the matrices, but for tables that are looked up, and the
    experts that lie in one tensor. Convolutions are no linears in any engine.
    """
    plain = {
        tensor.name.rpartition(".")[0]
        for tensor in tensors
        if len(tensor.shape) == 2 or (len(tensor.shape) == 3 and not tensor.name.endswith(WEIGHT))
    }
    return {
        **{module: None for module in sorted(plain) if not module.endswith(LOOKED_UP)},
        **{module: linear.format.label for module, linear in plan.linears.items()},
    }


def made_files(recipe: Recipe) -> set[str]:
    """The files of a checkpoint that are not the base's, weights aside.

    SGLang and older vLLM read ModelOpt's config from a file of its own.
    """
    quant_config = {QUANT_CONFIG} if recipe.layout.loader == "modelopt" else set()
    template = {TEMPLATE} if recipe.template is not None else set()
    return {CONFIG, INDEX} | quant_config | template


def edited_files(recipe: Recipe) -> tuple[str, ...]:
    """The files of the base that the checkpoint has in another form, sorted."""
    return tuple(sorted({CONFIG, *recipe.strip}))


def originals(recipe: Recipe, fetched: Collection[str]) -> list[str]:
    """What was fetched of which files of the checkpoint are made, by where fetch left it."""
    donors = f"donor/{CONFIG}"
    base = [f"base/{name}" for name in edited_files(recipe)]
    return [*base, donors] if donors in fetched else base


def with_key(data: Mapping[str, Any], key: str, value: Any) -> dict[str, Any]:
    """An object with a value under a dotted key, which is added at the end if it is not there."""
    first, _, rest = key.partition(".")
    if rest:
        inner = data.get(first)
        value = with_key(inner if isinstance(inner, Mapping) else {}, rest, value)
    return {**data, first: value}


def ignore_list(recipe: Recipe, tensors: Iterable[Spec | Tensor]) -> list[str]:
    """What both configs list as not quantized: the recipe's patterns, or every module by name."""
    return list(recipe.layout.ignore) or ignored_modules(tensors)


def quant_config(recipe: Recipe, ignore: list[str]) -> dict[str, Any]:
    """`hf_quant_config.json` in ModelOpt's form."""
    return {
        "producer": {"name": "hallmark"},
        "quantization": {
            "quant_algo": "NVFP4",
            "kv_cache_quant_algo": "FP8" if recipe.layout.kv_cache else None,
            "group_size": BLOCK,
            "exclude_modules": ignore,
        },
    }


def quantization_config(recipe: Recipe, ignore: list[str]) -> dict[str, Any]:
    """`quantization_config` of `config.json`, in the form that the recipe's loader reads."""
    if recipe.layout.loader == "modelopt":
        return _modelopt(recipe, ignore)
    return _compressed_tensors(recipe, ignore)


def _modelopt(recipe: Recipe, ignore: list[str]) -> dict[str, Any]:
    scheme = {"dynamic": False, "num_bits": 4, "type": "float", "group_size": BLOCK}
    return {
        "config_groups": {
            "group_0": {"input_activations": scheme, "weights": scheme, "targets": ["Linear"]}
        },
        "ignore": ignore,
        "quant_algo": "NVFP4",
        **({"kv_cache_scheme": _FP8_CACHE} if recipe.layout.kv_cache else {}),
        "producer": {"name": "hallmark"},
        "quant_method": "modelopt",
    }


def _compressed_tensors(recipe: Recipe, ignore: list[str]) -> dict[str, Any]:
    targets: dict[str, list[str]] = {}
    for rule in recipe.quantize:
        targets.setdefault(rule.format, []).extend(map(vllm_names.target, rule.modules))
    kinds = [formats.find(recipe.layout.loader, name) for name in targets]
    groups = {
        f"group_{number}": {"format": kind.label, "targets": targets[kind.name], **kind.scheme}
        for number, kind in enumerate(kinds)
    }
    cache = {**_FP8_CACHE, "strategy": "tensor", "symmetric": True}
    return {
        "config_groups": groups,
        "format": kinds[0].label if len(kinds) == 1 else "mixed-precision",
        "ignore": ignore,
        "kv_cache_scheme": cache if recipe.layout.kv_cache else None,
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
    }
