"""What people report of bases, recipes and hubs: each kind is refused before calibration, or told.

A build is begun as the command line begins it. It ends in one line with the exit code, the user's
own file or tensor and the value, before an environment of another step is started; or it ends well,
and what was done is told. The kinds that need another place than a base have their tests elsewhere:

- linears of one fused matrix with scales of their own: also `tensors/test_plan.py`
- a hub that never answers, answers no list, 503, 404, 410, 451: `inputs/test_hub_troubles.py`
- what transformers and modelopt raise: `calibration/test_libraries.py`
- what the system refuses, and a full disk: `test_full_disk.py`, `test_rechecks.py`
"""

import re

import numpy as np
import pytest
from conftest import FLAGSHIP, MIXED, bf16
from released import here
from small_base import Base, spelled, text, top

from forge import driver
from forge.core.errors import HallmarkError
from forge.core.store import Store
from forge.pipeline import Job

RNG = np.random.default_rng(7)
TEXT = "model.language_model."
LAYER = f"{TEXT}layers.0."
NAN, INFINITY = 0x7FC0, 0xFF80
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"
WRONG_BASE, BAD_RECIPE, BAD_FILE = 18, 3, 6


def dropped(*parts):
    """Without the tensors whose names have one of the parts."""

    def change(base):
        for name in [n for n in base.arrays if any(part in n for part in parts)]:
            del base.arrays[name]

    return change


def value(name, bits, at=0):
    """A value of a tensor, as the bits of BF16."""

    def change(base):
        base.arrays[name].reshape(-1)[at] = bits

    return change


def zeros(*parts):
    """Zero in the tensors whose names have one of the parts."""

    def change(base):
        for name, array in base.arrays.items():
            if any(part in name for part in parts):
                array[...] = 0

    return change


def shaped(name, *shape):
    return lambda base: base.arrays.update({name: bf16(RNG, *shape)})


def turned(name):
    return lambda base: base.arrays.update({name: np.swapaxes(base.arrays[name], -1, -2).copy()})


def typed(dtype):
    return lambda base: base.arrays.update({n: a.astype(dtype) for n, a in base.arrays.items()})


def beside(**files):
    return lambda base: base.beside.update({n.replace("__", "."): d for n, d in files.items()})


def without(name):
    return lambda base: base.beside.pop(name)


def metadata(spelling):
    """Another `__metadata__` in the header of the first file."""

    def change(base):
        def after(folder):
            file = folder / "model-00001-of-00002.safetensors"
            data = file.read_bytes()
            end = 8 + int.from_bytes(data[:8], "little")
            header = b'{"__metadata__":' + spelling + b"," + data[9:end]
            file.write_bytes(len(header).to_bytes(8, "little") + header + data[end:])

        base.after = after

    return change


def apart(linear):
    """The recipe has a rule of its own for a linear that engines fuse with others."""

    def change(base):
        rules = []
        for rule in base.wanted.quantize:
            if any(one.endswith(linear) for one in rule.modules):
                own = tuple(one for one in rule.modules if one.endswith(linear))
                others = tuple(one for one in rule.modules if one not in own)
                rules += [rule.model_copy(update={"modules": part}) for part in (others, own)]
            else:
                rules.append(rule)
        base.wanted = base.wanted.model_copy(update={"quantize": tuple(rules)})

    return change


def unshared(linear):
    """The rule of a linear does not say that its input is that of the others."""

    def change(base):
        base.wanted = base.wanted.model_copy(
            update={
                "quantize": tuple(
                    rule.model_copy(update={"shared_input": False})
                    if any(one.endswith(linear) for one in rule.modules)
                    else rule
                    for rule in base.wanted.quantize
                )
            }
        )

    return change


NORM = f"{LAYER}input_layernorm.weight"
UP, EMBEDDED, VISION = (
    f"{LAYER}mlp.up_proj.weight",
    f"{TEXT}embed_tokens.weight",
    "visual.pos_embed",
)
EXPERTS = f"{LAYER}mlp.experts.gate_up_proj"
DENSE, MOE = FLAGSHIP, MIXED
REFUSED = {
    # Silent before: transformers fills what is absent at random.
    "a linear is absent": (DENSE, dropped(UP), WRONG_BASE, rf"no tensor '{UP}'.*shape \[64, 32\]"),
    "a norm is absent": (DENSE, dropped(NORM), WRONG_BASE, rf"has no tensor '{NORM}' \(norms\)"),
    "a layer is absent": (
        DENSE, dropped("layers.1."), WRONG_BASE, r"'model.language_model.layers.1.*10 other tens",
    ),
    "experts are absent": (MOE, dropped(EXPERTS), WRONG_BASE, f"has no tensor '{EXPERTS}'"),
    "the vision tower is absent": (DENSE, dropped("visual."), WRONG_BASE, "'model.visual"),
    "a tensor of the head is absent": (DENSE, dropped("mtp.fc"), WRONG_BASE, "'mtp.fc.weight'"),
    "a tensor is one too many": (
        DENSE, shaped(f"{LAYER}mlp.extra.weight", 2, 2), WRONG_BASE, "mlp.extra.weight' is not",
    ),
    "a tensor is empty": (DENSE, shaped(NORM, 0), WRONG_BASE, rf"'{NORM}'.*of shape \[0\]"),
    "a matrix is empty": (DENSE, shaped(UP, 0, 32), WRONG_BASE, rf"'{UP}'.*of shape \[0, 32\]"),
    "the head is empty": (DENSE, shaped("mtp.fc.weight", 0), WRONG_BASE, r"'mtp.fc.*shape \[0\]"),
    "NaN in a norm": (DENSE, value(NORM, NAN, 3), WRONG_BASE, rf"'{NORM}' holds NaN at \[3\]"),
    "NaN in a linear": (DENSE, value(UP, NAN, 33), WRONG_BASE, rf"'{UP}' holds NaN at \[1, 1\]"),
    "infinity in the vision tower": (
        DENSE, value(f"model.{VISION}.weight", INFINITY), WRONG_BASE, f"{VISION}.*holds -infinity",
    ),
    "NaN in the embeddings": (DENSE, value(EMBEDDED, NAN), WRONG_BASE, f"'{EMBEDDED}' holds NaN"),
    "NaN in the output head": (
        DENSE, value("lm_head.weight", NAN), WRONG_BASE, "'lm_head.weight' holds NaN",
    ),
    "NaN in the MTP head": (
        DENSE, value("mtp.norm.weight", NAN), WRONG_BASE, "'mtp.norm.weight' holds NaN",
    ),
    "NaN in an expert": (
        MOE, value(EXPERTS, NAN, -1), WRONG_BASE, rf"'{EXPERTS}' holds NaN at \[\d+, \d+, \d+\]",
    ),
    "a head of zeros": (
        DENSE, zeros("mtp."), WRONG_BASE, "all 8 matrices of the MTP head are zero, such as 'mtp",
    ),
    "another vocabulary": (
        DENSE, text(vocab_size=96), WRONG_BASE, r"'lm_head.weight'.*\[64, 32\].*\[96, 32\]",
    ),
    "another count of experts": (
        MOE, text(num_experts=2), WRONG_BASE, r"mlp\.experts\.\w+'.*\[\d+, 32, \d+\].* for \[2, ",
    ),
    "fewer layers": (
        DENSE, text(num_hidden_layers=1, layer_types=["linear_attention"]), WRONG_BASE,
        "layers.1.input_layernorm.weight' is not part of the architecture",
    ),
    "layers that do not add up": (
        DENSE, text(num_hidden_layers=3), WRONG_BASE, "lists 2 layer.*num_hidden_layers says 3",
    ),
    "no layers of the head": (
        DENSE, text(mtp_num_hidden_layers=0), WRONG_BASE, "mtp_num_hidden_layers is 0, but",
    ),
    "nothing of a head": (
        DENSE, text(mtp_num_hidden_layers=None), WRONG_BASE, "mtp_num_hidden_layers is null, but",
    ),
    "a head of other shapes": (
        DENSE, shaped("mtp.fc.weight", 32, 32), WRONG_BASE, r"'mtp.fc.*\[32, 32\].*\[32, 64\]",
    ),
    "tied embeddings and a head of its own": (
        DENSE, top(tie_word_embeddings=True), WRONG_BASE,
        "tie_word_embeddings.* is true, so engines take.*'lm_head.weight' is there and differs",
    ),
    "tied by the inner config": (
        DENSE, text(tie_word_embeddings=True), WRONG_BASE, "'lm_head.weight' is there and differs",
    ),
    "up has a rule of its own": (
        DENSE, apart("up_proj"), BAD_RECIPE, "global scales of their own, but engines fuse them",
    ),
    "v has a rule of its own": (
        DENSE, apart("v_proj"), BAD_RECIPE, "'.*v_proj' would have global scales of their own",
    ),
    "gate and up share no input": (
        DENSE, unshared("up_proj"), BAD_RECIPE, "'.*up_proj' would have global scales of their own",
    ),
    "no processor": (
        DENSE, without("preprocessor_config.json"), WRONG_BASE,
        "has no preprocessor_config.json, or processor_config.json",
    ),
    "no tokenizer": (DENSE, without("tokenizer.json"), WRONG_BASE, "has no tokenizer.json, or"),
    # With the wrong word before: tracebacks of libraries, or a full disk.
    "a matrix is transposed": (
        DENSE, turned(UP), WRONG_BASE, rf"'{UP}'.*\[32, 64\].* for \[64, 32\]",
    ),
    "experts are transposed": (MOE, turned(EXPERTS), WRONG_BASE, f"'{EXPERTS}'.* has shape"),
    "the config is broken": (DENSE, spelled(lambda data: data[:40]), WRONG_BASE, "config.json: is"),
    "the config is empty": (DENSE, spelled(lambda _: b""), WRONG_BASE, "config.json: is no JSON"),
    "a byte order mark": (
        DENSE, spelled(lambda data: b"\xef\xbb\xbf" + data), WRONG_BASE, "byte order mark",
    ),
    "Infinity in the config": (
        DENSE, spelled(lambda data: data[:-1] + b', "x": Infinity}'), WRONG_BASE, "Infinity is not",
    ),
    "NaN in the config": (
        DENSE, spelled(lambda data: data[:-1] + b', "x": NaN}'), WRONG_BASE, "NaN is not JSON",
    ),
    "a key twice": (
        DENSE, spelled(lambda data: data[:-1] + b', "model_type": "x"}'), WRONG_BASE,
        "the key 'model_type' stands twice",
    ),
    "the tokenizer is a pointer": (
        DENSE, beside(tokenizer__json=POINTER), WRONG_BASE, "tokenizer.json: is a pointer of Git",
    ),
    "metadata of null": (DENSE, metadata(b"null"), BAD_FILE, "__metadata__ must map names to"),
    "metadata of a number": (
        DENSE, metadata(b'{"a": 7}'), BAD_FILE, "__metadata__ must map names to text",
    ),
    # Told only after hours before.
    "another architecture": (
        DENSE, top(architectures=["LlamaForCausalLM"]), WRONG_BASE, r'is \["LlamaForCausalLM"\], b',
    ),
    "no architecture": (DENSE, top(architectures=None), WRONG_BASE, "architectures is null, but"),
    "it is quantized": (
        DENSE, top(quantization_config={"quant_method": "fp8"}), WRONG_BASE, "is quantized already",
    ),
    "it is compressed": (
        DENSE, top(compression_config={"format": "x"}), WRONG_BASE, "compression_config says",
    ),
    "F16 in a format for BF16": (MOE, typed(np.float16), WRONG_BASE, "dtype F16 cannot be quant"),
    "F32 in a format for BF16": (MOE, typed(np.float32), WRONG_BASE, "dtype F32 cannot be quant"),
}  # fmt: skip
# What was refused before though it is legal, or was lost; a file or a word of the report tells.
BUILT = {
    "no quantization, spelled out": (DENSE, top(quantization_config=None), None),
    "a processor of transformers 5": (
        DENSE,
        lambda base: base.beside.update({"processor_config.json": base.beside.pop(PROCESSOR)}),
        "processor_config.json",
    ),
    "tokens in files of their own": (
        DENSE, beside(special_tokens_map__json=b"{}"), "special_tokens_map.json",
    ),
    "added tokens": (DENSE, beside(added_tokens__json=b"{}"), "added_tokens.json"),
    "norms of zeros": (DENSE, zeros("norm.weight"), None),
    "a dead linear": (DENSE, zeros(UP), ("structure.zeros", UP.removesuffix(".weight"))),
    "a dead row": (DENSE, lambda base: base.arrays[UP][5].fill(0), None),
    "a dead expert": (
        MOE,
        lambda base: base.arrays[EXPERTS][1].fill(0),
        ("structure.zeros", f"{LAYER}mlp.experts.1.gate_proj"),
    ),
}  # fmt: skip
PROCESSOR = "preprocessor_config.json"


@pytest.fixture
def begin(tmp_path, monkeypatch):
    """Builds a spoilt base, by a driver whose record is written by hand."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def begun(variant, spoil, neighbour):
        base = Base(tmp_path / "the base", variant)
        spoil(base)
        base.write()
        getattr(base, "after", lambda _: None)(base.folder)
        job = Job(
            recipe=base.wanted,
            store=Store(tmp_path / "store"),
            rehearsal=True,
            base=base.folder,
            level="structure",
        )
        (tmp_path / "out").mkdir()
        return driver.build(job, tmp_path / "out", here(job, neighbour)), tmp_path / "out"

    return begun


@pytest.mark.parametrize("kind", REFUSED)
def test_it_is_refused_before_calibration(begin, tmp_path, kind):
    variant, spoil, code, reason = REFUSED[kind]
    with pytest.raises(HallmarkError) as told:
        begin(variant, spoil, lambda: pytest.fail("the build has gone on"))
    line = str(told.value)
    assert re.search(reason, line), line
    assert told.value.code == code
    assert "\n" not in line
    assert (str(tmp_path / "the base") if code != BAD_RECIPE else f"{variant}.toml") in line
    assert str(tmp_path / "store") not in line
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("kind", BUILT)
def test_it_is_built(begin, kind):
    """Into a folder that is there and empty."""
    variant, spoil, told = BUILT[kind]
    code, out = begin(variant, spoil, lambda: None)
    assert code == 0
    if isinstance(told, str):
        assert (out / told).read_bytes() == b"{}"
    elif told is not None:
        report = (out / "provenance/verification.json").read_text(encoding="utf-8")
        assert told[1] in report
