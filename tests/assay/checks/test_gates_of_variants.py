"""The gates on every kind of variant: compressed-tensors, FP8, text only, without a head."""

import operator
import shutil

import numpy as np
import pytest
from assay_edits import edit_json, failed, flip_a_bit, poke, rewrite, set_nan
from conftest import MIXED, base_arrays, build_small

from forge.recipes import recipe
from forge.tensors import other_names, tensorfile, vllm_names
from forge.tensors.tensorfile import Spec

LAYER = "model.language_model.layers.1"
BODY = "model-00001-of-00001.safetensors"
BASELINE = "qwen36-27b-nvfp4"
TEXT = "qwen36-27b-text-mtp"
CASCADE = "qwen36-27b-vlm-cascade-mtp"
MIXEDCAL = "qwen36-27b-vlm-mixedcal"


@pytest.fixture
def broken(small, tmp_path):
    """The gates that fail once a copy of a variant's checkpoint has been changed."""

    def gates(variant, change):
        folder = shutil.copytree(small(variant).checkpoint, tmp_path / variant)
        change(folder)
        return failed(small(variant), folder)

    return gates


@pytest.mark.parametrize("variant", recipe.names())
def test_untouched(broken, variant):
    assert broken(variant, lambda _: None) == set()


@pytest.mark.parametrize(
    ("tensor", "change"),
    [
        ("mlp.experts.2.down_proj.weight_global_scale", set_nan("<f4")),
        ("mlp.experts.2.down_proj.weight_global_scale", lambda data: data.__setitem__(3, 0xC6)),
        (
            "mlp.experts.0.down_proj.input_global_scale",
            lambda d: d.__setitem__(slice(0, 4), bytes(4)),
        ),
        ("mlp.experts.0.down_proj.weight_scale", lambda data: data.__setitem__(5, 0x7F)),
        ("self_attn.q_proj.weight_scale", lambda data: data.__setitem__(slice(0, 2), bytes(2))),
        ("self_attn.q_proj.weight_scale", lambda d: d.__setitem__(slice(2, 4), b"\xc0\x7f")),
    ],
)
def test_bad_scale(broken, tensor, change):
    """NaN, zero and negative: divisors, block scales, row scales."""
    gates = broken(MIXED, lambda folder: poke(folder, f"{LAYER}.{tensor}", change))
    assert gates == {"structure.scales"}


def swap(folder, one, other):
    """Exchanges the stored tensors of two linears."""
    held = {name: tensor.read() for name, tensor in tensorfile.read_checkpoint(folder).items()}
    for here, there in ((one, other), (other, one)):
        for name in held:
            module, _, suffix = name.rpartition(".")
            if module == f"{LAYER}.{here}":
                put = operator.methodcaller(
                    "__setitem__", slice(None), held[f"{LAYER}.{there}.{suffix}"]
                )
                poke(folder, name, put)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("mlp.experts.0.gate_proj", "mlp.experts.0.up_proj"),
        ("mlp.experts.0.down_proj", "mlp.experts.2.down_proj"),
        ("self_attn.k_proj", "self_attn.v_proj"),
    ],
)
def test_linears_in_each_others_place(broken, one, other):
    """Nothing else sees it: names, shapes and scales are right, and the perplexity hardly moves."""
    assert broken(MIXED, lambda folder: swap(folder, one, other)) == {"structure.weights"}


@pytest.mark.parametrize(
    ("tensor", "change"),
    [
        ("mlp.experts.1.up_proj.weight_packed", lambda d: (d >> 4) | (d << 4)),
        ("mlp.experts.1.up_proj.weight_scale", lambda d: np.roll(d, 1)),
        ("mlp.experts.1.down_proj.weight_global_scale", lambda d: d + np.uint8([0, 0, 0x80, 0])),
        ("self_attn.o_proj.weight", lambda d: d ^ 0x80),
        ("self_attn.o_proj.weight_scale", lambda d: np.roll(d, 2)),
        ("self_attn.o_proj.weight", lambda d: np.append(d[:-1], np.uint8(0x7F))),
    ],
    ids=["nibbles", "block scales", "global scale", "signs", "row scales", "a NaN"],
)
def test_values_that_are_not_the_bases(broken, tensor, change):
    def edit(data):
        data[:] = change(np.frombuffer(bytes(data), dtype=np.uint8)).tobytes()

    gates = broken(MIXED, lambda folder: poke(folder, f"{LAYER}.{tensor}", edit))
    assert gates == {"structure.weights"}


def test_a_zero_linear_beside_others(tmp_path):
    """Its group has a scale, so it is built; it must be stored as zero."""
    arrays = base_arrays(variant=TEXT)
    arrays[f"{LAYER}.mlp.up_proj.weight"][:] = 0
    built = build_small(tmp_path, arrays, recipe.find(TEXT))
    assert failed(built, built.checkpoint) == set()

    poke(built.checkpoint, f"{LAYER}.mlp.up_proj.weight", flip_a_bit)
    assert failed(built, built.checkpoint) == {"structure.weights"}


def test_missing_expert(broken):
    lost = f"{LAYER}.mlp.experts.2."
    gates = broken(MIXED, lambda f: rewrite(f, BODY, lambda t: not t.name.startswith(lost)))
    assert gates == {"structure.names", "structure.quantized", "structure.scales"}


def test_router_or_fused_head_altered(broken):
    router = f"{LAYER}.mlp.gate.weight"
    assert broken(MIXED, lambda f: poke(f, router, flip_a_bit)) == {"structure.kept"}


def test_head_altered(broken):
    head = "mtp.layers.0.mlp.experts.gate_up_proj"
    assert broken(MIXED, lambda f: poke(f, head, flip_a_bit)) == {"structure.mtp"}


def quantization(change):
    def edit(folder):
        edit_json(folder / "config.json", lambda c: change(c["quantization_config"]))

    return edit


@pytest.mark.parametrize(
    ("change", "gates"),
    [
        (lambda c: c["ignore"].clear(), {"structure.ignore"}),
        (lambda c: c["ignore"].append("re:.*down_proj$"), {"structure.ignore"}),
        (lambda c: c.update(format="nvfp4-pack-quantized"), {"structure.config"}),
        (lambda c: c.update(quantization_status="frozen"), {"structure.config"}),
        (lambda c: c["config_groups"].pop("group_1"), {"structure.config", "structure.ignore"}),
        (
            lambda c: c["config_groups"]["group_0"].update(targets=["re:.*mlp.*"]),
            {"structure.config", "structure.ignore"},
        ),
    ],
)
def test_compressed_tensors_config(broken, change, gates):
    assert broken(MIXED, quantization(change)) == gates


def test_a_target_that_reaches_the_head(broken):
    """What the `re:` entry for the head is for: without it and with broad targets, vLLM would
    take the head for quantized."""

    def change(config):
        config["config_groups"]["group_1"]["targets"] = [r"re:.*self_attn\.(q|k|v|o)_proj$"]
        config["ignore"] = [entry for entry in config["ignore"] if "mtp" not in entry]

    assert broken(MIXED, quantization(change)) == {"structure.config", "structure.ignore"}


def test_what_sglang_alone_misreads(broken):
    """An entry that lies in a name covers it for SGLang; vLLM and transformers want the whole."""
    linears = (f"{LAYER}.mlp.shared_expert.{name}_proj" for name in ("gate", "up"))
    modules = dict.fromkeys(linears, "a")
    config = {
        "quant_method": "compressed-tensors",
        "config_groups": {"group_0": {"format": "a", "targets": ["re:.*_proj"]}},
        "ignore": ["shared_expert.gate"],
    }
    assert vllm_names.mistaken(config, modules) == []
    assert other_names.mistaken(config, modules) == {
        "sglang": [f"{LAYER}.mlp.shared_expert.gate_up_proj"], "transformers": []
    }  # fmt: skip

    gates = broken(MIXED, quantization(lambda c: c["ignore"].append("shared_expert.gate")))
    assert gates == {"structure.ignore"}


def test_second_config_where_none_belongs(broken):
    gates = broken(
        MIXED, lambda folder: (folder / "hf_quant_config.json").write_text("{}", encoding="utf-8")
    )
    assert gates == {"structure.files"}


@pytest.mark.parametrize("globs", [["*model.visual*"], ["*visual*"], []])
def test_published_globs(broken, globs):
    """The list is the recipe's own, and one that vLLM misreads is found besides."""

    def change(folder):
        quantization(lambda c: c.update(ignore=globs))(folder)

    assert broken(CASCADE, change) == {"structure.ignore"}


def test_kv_cache_forgotten(broken):
    gates = broken(MIXEDCAL, quantization(lambda c: c.pop("kv_cache_scheme")))
    assert gates == {"structure.config"}


def test_kv_cache_forgotten_in_the_second_config(broken):
    def change(folder):
        edit_json(
            folder / "hf_quant_config.json",
            lambda c: c["quantization"].update(kv_cache_quant_algo=None),
        )

    assert broken(MIXEDCAL, change) == {"structure.config"}


def append(folder, name, shape):
    """Puts a tensor of zeros into the body and the index."""
    tensors = tensorfile.read_header(folder / BODY)
    specs = [*(t.spec for t in tensors), Spec(name=name, dtype="BF16", shape=shape)]
    data = b"".join(t.read() for t in tensors) + bytes(specs[-1].nbytes)
    (folder / BODY).write_bytes(tensorfile.header_bytes(specs) + data)

    def learn(index):
        index["weight_map"][name] = BODY
        index["metadata"]["total_size"] += specs[-1].nbytes

    edit_json(folder / tensorfile.INDEX, learn)


def test_vision_tower_still_there(broken):
    name = "model.visual.blocks.0.norm1.weight"
    assert broken(TEXT, lambda f: append(f, name, (8,))) == {"structure.names"}


def test_k_scale_stored(broken):
    name = f"{LAYER}.self_attn.k_proj.k_scale"
    assert broken(MIXEDCAL, lambda f: append(f, name, (1,))) == {"structure.names"}


def test_head_that_should_be_dropped(broken):
    gates = broken(BASELINE, lambda f: append(f, "mtp.norm.weight", (16,)))
    assert gates == {"structure.names", "structure.mtp"}


def test_template_replaced_where_the_recipe_has_none(broken):
    gates = broken(
        TEXT, lambda folder: (folder / "chat_template.jinja").write_text("other", encoding="utf-8")
    )
    assert gates == {"structure.files"}


def test_fp8_weight_stored_in_bf16(broken):
    """Caught by its dtype, whatever the config says."""

    def change(folder):
        tensors = tensorfile.read_header(folder / BODY)
        wide = f"{LAYER}.self_attn.q_proj.weight"
        specs = [
            Spec(name=t.name, dtype="BF16" if t.name == wide else t.dtype, shape=t.shape)
            for t in tensors
        ]
        data = (t.read() * (2 if t.name == wide else 1) for t in tensors)
        (folder / BODY).write_bytes(tensorfile.header_bytes(specs) + b"".join(data))
        size = int(np.prod(next(t.shape for t in tensors if t.name == wide)))
        edit_json(
            folder / tensorfile.INDEX,
            lambda index: index["metadata"].update(
                total_size=index["metadata"]["total_size"] + size
            ),
        )

    assert broken(MIXED, change) == {"structure.quantized"}
