"""What a base lacks is told before any work: by file, tensor or key, and what would be right."""

import errno
import os
import re
import shutil
import subprocess
import sys
from hashlib import sha256

import numpy as np
import pytest
from conftest import FLAGSHIP, MIXED, bf16
from hub_server import serve
from released import local_base
from small_base import Base, spelled, text, top

from forge import pipeline
from forge.core import canonical, console
from forge.core.errors import BaseError, FetchError, RecipeError, TensorFileError
from forge.core.store import Store
from forge.inputs import fetch, preflight
from forge.inputs import hub as downloads
from forge.pipeline import Job
from forge.recipes import recipe
from forge.tensors import admission, tensor_list, tensorfile

DONATED = "carnice-v2-27b-text-mtp"
LAYER = "model.language_model.layers.0."
NORM = LAYER + "input_layernorm.weight"
LINEAR = LAYER + "mlp.up_proj.weight"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
RNG = np.random.default_rng(5)


@pytest.fixture
def base(tmp_path):
    return Base(tmp_path / "the base")


def empty(base):
    base.arrays[NORM] = np.zeros(0, dtype=np.uint16)


def transposed(base):
    base.arrays[LINEAR] = base.arrays[LINEAR].T


def renamed(base):
    base.arrays["model." + NORM] = base.arrays.pop(NORM)


def dropped(*names):
    def drop(base):
        for name in names:
            del base.arrays[name]

    return drop


def typed(base):
    base.arrays[NORM] = base.arrays[NORM].astype(np.float64)


def whole(data):
    return spelled(lambda _: data)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"
FAULTS = {
    "a norm is absent": (dropped(NORM), rf"the base: has no tensor '{NORM}' \(norms\)"),
    "a linear is absent": (dropped(LINEAR), rf"has no tensor '{LINEAR}' \(MLP\).*\[64, 32\]"),
    "a layer is absent": (
        lambda base: dropped(*(name for name in base.arrays if LAYER in name))(base),
        r"has no tensor 'model.language_model.layers.0.*13 other tensor\(s\) are wrong",
    ),
    "a vision tensor is absent": (dropped("model.visual.pos_embed.weight"), "visual.pos_embed"),
    "a tensor of the head is absent": (dropped("mtp.fc.weight"), "mtp.fc.weight"),
    "the output head is absent": (dropped("lm_head.weight"), "lm_head.weight"),
    "a tensor is empty": (empty, rf"model-00001.*'{NORM}' \(norms\) is empty, of shape \[0\]"),
    "a matrix is transposed": (transposed, rf"'{LINEAR}' .* shape \[32, 64\].*\[64, 32\]"),
    "a prefix is doubled": (renamed, rf"'model.{NORM}' is not part of the architecture"),
    "a dtype is none of the family's": (typed, rf"'{NORM}' \(norms\) is F64, expected BF16 or F16"),
    "a shape of the head is wrong": (
        lambda base: base.arrays.update({"mtp.fc.weight": bf16(RNG, 32, 32)}),
        r"'mtp.fc.weight' \(MTP head\) has shape \[32, 32\].*\[32, 64\]",
    ),
    "the vocabulary is another": (
        text(vocab_size=128),
        r"'lm_head.weight'.*\[64, 32\].*\[128, 32\]",
    ),
    "fewer layers are stated": (
        text(num_hidden_layers=1, layer_types=["linear_attention"]),
        r"layers.1.input_layernorm.weight' is not part of the architecture",
    ),
    "the layers do not add up": (text(num_hidden_layers=3), "layer_types lists 2 layer"),
    "no head is stated": (
        text(mtp_num_hidden_layers=0),
        r"config.json: text_config.mtp_num_hidden_layers is 0, but qwen36-27b-vlm-mtp.toml keeps",
    ),
    "nothing is said of a head": (
        text(mtp_num_hidden_layers=None),
        "mtp_num_hidden_layers is null",
    ),
    "a head of two layers is stated": (
        text(mtp_num_hidden_layers=2),
        r"mtp.tensors lacks 'mtp.layers.1.*a head of 2 layer",
    ),
    "another architecture": (
        top(architectures=["LlamaForCausalLM"]),
        r'architectures is \["LlamaForCausalLM"\], but qwen36-27b-vlm-mtp.toml is for Qwen3_5For',
    ),
    "another model type": (
        top(model_type="qwen3_5_moe"),
        "model_type is .*not belong to Qwen3_5For|is null",
    ),
    "an unknown model type": (top(model_type="qwen4"), "model_type is .qwen4.; known are qwen3_5,"),
    "it is quantized": (
        top(quantization_config={"quant_method": "fp8"}),
        "quantization_config says that the base is quantized already",
    ),
    "its inner config is quantized": (
        text(quantization_config={"quant_method": "fp8"}),
        "text_config.quantization_config says that the base is quantized",
    ),
    "a byte order mark": (
        spelled(lambda data: b"\xef\xbb\xbf" + data),
        "begins with a byte order",
    ),
    "an infinity": (
        spelled(lambda data: data[:-1] + b', "time_step_limit": [0.0, Infinity]}'),
        "config.json: .*Infinity is not JSON",
    ),
    "a NaN": (spelled(lambda data: data[:-1] + b', "x": NaN}'), "NaN is not JSON"),
    "a key stands twice": (
        spelled(lambda data: data[:-1] + b', "model_type": "x"}'),
        "the key 'model_type' stands twice",
    ),
    "the config is cut": (spelled(lambda data: data[:99]), "config.json: is no JSON"),
    "the config is a list": (whole(b"[]"), "config.json: must hold a JSON object"),
    "the config is a pointer": (
        whole(POINTER),
        "config.json: is a pointer of Git LFS",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_base_is_told(base, fault):
    """In one line, with the user's own path."""
    spoil, expected = FAULTS[fault]
    spoil(base)
    with pytest.raises((BaseError, RecipeError)) as told:
        base.look()
    assert re.search(expected, said := str(told.value)), said
    assert "\n" not in said
    assert str(base.folder) in said
    assert not (base.folder.parent / "store").exists()


def test_a_whole_base_passes(base):
    assert len(base.look().tensors) == len(base.arrays)


@pytest.mark.parametrize("variant", recipe.names())
def test_every_variant_passes_on_a_base_of_its_architecture(tmp_path, variant):
    Base(tmp_path / "base", variant).look()


def test_no_quantization_may_be_spelled_out(base):
    base.config["quantization_config"] = None
    base.look()


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_dtype_that_a_format_cannot_take(tmp_path, dtype):
    """The modelopt layout packs them, compressed-tensors' arithmetic is that of BF16."""
    for variant in (FLAGSHIP, MIXED):
        one = Base(tmp_path / variant, variant)
        one.arrays = {name: array.astype(dtype) for name, array in one.arrays.items()}
        if variant == FLAGSHIP:
            one.look()
        else:
            with pytest.raises(
                BaseError, match="safetensors: .*dtype F.. cannot be quantized; BF16"
            ):
                one.look()


def test_a_recipe_that_names_no_such_tensor(base):
    keep = (*base.wanted.keep, base.wanted.keep[0].model_copy(update={"tensors": ("x.*",)}))
    base.wanted = base.wanted.model_copy(update={"keep": keep})
    with pytest.raises(RecipeError, match=r"'x\.\*' matches no tensor"):
        base.look()


def test_a_file_whose_keys_are_stripped_is_absent(base):
    base.write()
    base.wanted = base.wanted.model_copy(update={"strip": {"absent.json": ("x",)}})
    with pytest.raises(BaseError, match=r"has no absent.json, whose keys qwen36-27b-vlm-mtp.toml"):
        base.look()


@pytest.mark.parametrize("metadata", ["null", "7", '{"format": 1}'])
def test_metadata_that_no_library_reads(base, metadata):
    """The safetensors library fails on it without saying of which file."""
    file = base.write() / "model-00001-of-00002.safetensors"
    data = file.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = b'{"__metadata__":' + metadata.encode() + b"," + data[9:end]
    file.write_bytes(len(header).to_bytes(8, "little") + header + data[end:])
    with pytest.raises(TensorFileError, match=r"00001.*__metadata__ must map names to text"):
        tensorfile.read_header(file)


def test_the_head_of_a_donor_is_held_to_the_base(tmp_path):
    """A base without a head takes that of another size nowhere: the stand-in's is 256 wide."""
    base = Base(tmp_path / "base", DONATED)
    base.arrays = {name: one for name, one in base.arrays.items() if not name.startswith("mtp.")}
    with pytest.raises(BaseError) as told:
        base.look()
    assert re.search(r"standins/.*'mtp.*' \(MTP head.*has shape \[256.*asks for", str(told.value))


def test_the_config_of_a_donor_says_how_many_layers_its_head_has(tmp_path):
    """The base's may say none; without one of the donor's nobody knows."""
    base, donor = Base(tmp_path / "base", DONATED), Base(tmp_path / "donor", DONATED)
    base.arrays = {name: one for name, one in base.arrays.items() if name[:4] != "mtp."}
    del base.config["text_config"]["mtp_num_hidden_layers"]
    both = [admission.read(one.write()) for one in (base, donor)]
    admission.admit(base.wanted, *both)
    donor.config["text_config"]["mtp_num_hidden_layers"] = 0
    with pytest.raises(BaseError, match=r"donor/config\.json: .*mtp_num_hidden_layers is 0, but"):
        admission.admit(base.wanted, both[0], admission.read(donor.write()))
    donor.config["text_config"]["mtp_num_hidden_layers"] = 2
    with pytest.raises(RecipeError, match=r"a head of 2 layer\(s\), as .*donor/config\.json"):
        admission.admit(base.wanted, both[0], admission.read(donor.write()))
    (donor.folder / "config.json").unlink()
    with pytest.raises(BaseError, match=r"donor: has no config\.json, which says how many layers"):
        admission.admit(base.wanted, both[0], admission.read(donor.folder))


def test_an_output_head_of_its_own_beside_tied_embeddings(base):
    base.config["tie_word_embeddings"] = True
    found = base.look()
    assert found.config is not None
    names = {"model.language_model.embed_tokens.weight": "a", "lm_head.weight": "a"}
    admission.require_tied(found.config, names)
    with pytest.raises(BaseError, match="so engines take 'model.language_model.embed_tokens.wei"):
        admission.require_tied(found.config, names | {"lm_head.weight": "b"})


@pytest.fixture
def hub(monkeypatch):
    with serve() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        yield server


# What transformers of today and of before save beside the weights of this family.
BESIDE = {
    "chat_template.jinja": b"x",
    "chat_template.json": b"{}",
    "additional_chat_templates/tool_use.jinja": b"x",
    "merges.txt": b"x",
    "special_tokens_map.json": b"{}",
    "added_tokens.json": b"{}",
    "vocab.json": b"{}",
    "generation_config.json": b"{}",
    "processor_config.json": b"{}",
    "video_preprocessor_config.json": b"{}",
}


@pytest.fixture
def said(monkeypatch):
    """The lines of progress."""
    lines: list[str] = []
    monkeypatch.setattr(console, "say", lines.append)
    return lines


def test_what_belongs_to_tokenizer_and_processor_is_taken(base, said):
    """By the family, whatever the recipe's list says; all else is told."""
    base.beside |= BESIDE | {"README.md": b"x", "notes/a.txt": b"x"}
    source = base.wanted.base.model_copy(update={"files": ("*.safetensors", "*.index.json")})
    base.wanted = base.wanted.model_copy(update={"base": source, "template": None})
    base.look()
    assert said[-1].endswith("  not taken of the base: README.md, config.json, notes/a.txt")


def test_other_templates_are_told_where_a_recipe_replaces_the_template(base, said):
    """One of them, such as tool_use, could be taken in its place without a word."""
    base.beside |= BESIDE
    assert base.wanted.template is not None
    base.look()
    left = "additional_chat_templates/tool_use.jinja, chat_template.json"
    assert said[-1].endswith(f"  not taken of the base: {left}")


def test_many_files_that_are_not_taken_are_counted(base, said):
    base.beside |= {f"{number:02}.txt": b"x" for number in range(13)}
    base.look()
    assert "  not taken of the base: 00.txt, 01.txt, " in said[-1]
    assert said[-1].endswith("09.txt and 3 more")


@pytest.mark.parametrize(
    ("lacks", "has", "reason"),
    [
        (("tokenizer.json",), (), "has no tokenizer.json, or vocab.json and merges.txt, of which"),
        (("tokenizer.json",), ("vocab.json",), "of which the tokenizer is made"),
        (("tokenizer.json",), ("vocab.json", "merges.txt"), None),
        (
            ("preprocessor_config.json",),
            (),
            "has no preprocessor_config.json, or processor_config.json, of which the processor of",
        ),
        (("preprocessor_config.json",), ("processor_config.json",), None),
    ],
)
def test_parts_beside_the_weights_are_there(base, lacks, has, reason):
    base.beside = {name: data for name, data in base.beside.items() if name not in lacks}
    base.beside |= dict.fromkeys((*has, "tokenizer_config.json"), b"{}")
    if reason is None:
        base.look()
        return
    with pytest.raises(BaseError, match=f"the base: .*{reason}"):
        base.look()


def test_a_donor_lends_what_the_processor_is_made_of(tmp_path):
    base = Base(tmp_path / "base", DONATED)
    del base.beside["preprocessor_config.json"]
    base.look()


SPOILT = {
    "a byte order mark": (b"\xef\xbb\xbf{}", "begins with a byte order mark"),
    "NaN": (b'{"a": NaN}', "NaN is not JSON"),
    "Infinity": (b'{"a": [-Infinity]}', "-Infinity is not JSON"),
    "a number without end": (b'{"a": 1e999}', "1e999 is no number that JSON has 64 bits for"),
    "a key twice": (b'{"a": {"b": 1, "b": 2}}', "the key 'b' stands twice"),
    "half of a character": (b'{"a": "\\ud800"}', "half of a character"),
    "another encoding": ('{"a": "\xe4"}'.encode("latin-1"), "can't decode byte 0xe4"),
    "nothing": (b"", "is no JSON"),
    "a list": (b"[]", "must hold a JSON object"),
    "a pointer": (POINTER, "is a pointer of Git LFS"),
    "too deep": (b'{"a":' * 100_000, "nests too deeply"),
}
JSONS = (
    "config.json", "tokenizer.json", "tokenizer_config.json", "preprocessor_config.json",
    "processor_config.json", "video_preprocessor_config.json", "special_tokens_map.json",
    "added_tokens.json", "generation_config.json", "vocab.json",
)  # fmt: skip


@pytest.mark.parametrize("fault", SPOILT)
@pytest.mark.parametrize("name", JSONS)
def test_every_file_of_json_is_one_that_all_readers_agree_on(base, name, fault):
    data, reason = SPOILT[fault]
    base.beside |= {"merges.txt": b"x", name: data}
    if name == "config.json":
        base.raw = base.beside.pop(name)
    with pytest.raises(BaseError) as told:
        base.look()
    assert re.search(f"the base/{name}: .*{reason}", said := str(told.value)), said
    assert "\n" not in said


def test_a_large_file_of_json_is_looked_into_when_it_is_fetched(base):
    """A vocabulary is read once, where it is hashed."""
    base.beside["tokenizer.json"] = b'{"a": "' + b"x" * (1 << 20) + b'", "b": NaN}'
    base.look()
    job = fetch.choose(
        Job(
            recipe=base.wanted,
            store=Store(base.folder.parent / "store"),
            rehearsal=True,
            base=base.folder,
            level="none",
        ),
    )
    with pytest.raises(BaseError, match=r"the base/tokenizer\.json: .*NaN is not JSON"):
        pipeline.run(job, until="fetch")


def published(base, hub):
    """The job of a real build, whose base the hub has."""
    base.beside["tokenizer.json"] = b'{"model": "' + b"x" * (1 << 20) + b'"}'
    files = {path.name: path.read_bytes() for path in base.write().iterdir()}
    shutil.rmtree(base.folder)
    hub.add("acme/base", files, commit=COMMIT)
    source = base.wanted.base.model_copy(
        update={"repo": "acme/base", "revision": COMMIT, "files": tuple(files)}
    )
    return Job(
        recipe=base.wanted.model_copy(update={"base": source}),
        store=Store(base.folder.parent / "store"),
        rehearsal=False,
        origins={"base": "hub"},
    )


# What a preflight asks a hub for: what the commit is, what it lists, configs, and beginnings.
ALLOWED = (
    r"GET /api/models/[\w./-]+/revision/\w+\S* ",
    r"GET /api/models/[\w./-]+/tree/\w+\S* ",
    r"(HEAD|GET) \S+/(\w*config|model\.safetensors\.index)\.json ",
    r"GET \S+\.safetensors bytes=0-\d+",
    r"GET \S+\.safetensors \S* bytes=0-\d+",
)


def test_the_hub_is_asked_for_headers_alone(base, hub):
    """A whole base passes, and of its tensors no more was asked for than the beginning."""
    base.arrays["model.language_model.embed_tokens.weight"] = bf16(RNG, 64, 32)
    job = published(base, hub)
    assert len(preflight.check(job).tensors) == len(base.arrays)
    assert not [one for one in hub.requests if not any(re.fullmatch(a, one) for a in ALLOWED)]
    asked = [line for line in hub.requests if "safetensors " in line and "resolve" in line]
    assert len(asked) == 2
    assert all(re.search("bytes=0-", line) for line in asked)
    assert not list((job.store.root / "tmp").iterdir())


def test_the_command_asks_the_hub_for_headers_alone(base, hub, tmp_path):
    """As `make preflight` runs it, of the recipe as it is; no text and no sample is asked for."""
    source = base.wanted.base
    base.beside |= {name: BESIDE.get(name, b"x") for name in source.files if "*" not in name}
    for name in ("tokenizer.json", "vocab.json"):
        base.beside[name] = b'{"model": "' + b"x" * (1 << 20) + b'"}'
    for name in ("config.json", "model.safetensors.index.json"):
        del base.beside[name]
    base.beside |= {"README.md": b"x", "processor_config.json": b"{}", "merges.txt": b"x" * 9_000}
    base.beside["tokenizer_config.json"] = b"{}"
    base.beside["preprocessor_config.json"] = b"{}"
    base.write()
    files = {
        path.relative_to(base.folder).as_posix(): path.read_bytes()
        for path in base.folder.rglob("*")
        if path.is_file()
    }
    hub.add(source.repo, files, commit=source.revision)
    done = subprocess.run(
        [sys.executable, "-m", "forge", "preflight", FLAGSHIP, "--store", tmp_path / "store"],
        capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"preflight  {len(base.arrays)} tensors of the base are what" in done.stderr
    assert "preflight  not taken of the base: README.md\n" in done.stderr
    assert not [one for one in hub.requests if not any(re.fullmatch(a, one) for a in ALLOWED)]
    assert not list((tmp_path / "store").rglob("*.safetensors"))


def test_a_rehearsal_asks_no_hub(base, hub, tmp_path):
    """Not even whether it has the text that perplexity is taken over."""
    done = subprocess.run(
        [sys.executable, "-m", "forge", "preflight", FLAGSHIP, "--base", base.write(), "--store",
         tmp_path / "store"],
        capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert hub.requests == []


def test_a_fault_on_the_hub_is_told_before_fetching(base, hub):
    empty(base)
    with pytest.raises(BaseError, match=rf"'{NORM}' \(norms\) is empty"):
        preflight.check(published(base, hub))


@pytest.mark.parametrize("devices", [16, 3])
def test_more_devices_than_the_base_can_be_divided_among(base, hub, devices):
    """A real build ends before fetching; a rehearsal's base is small, and it goes on."""
    args = {**base.wanted.serve.args, "tensor-parallel-size": devices}
    serve = base.wanted.serve.model_copy(update={"args": args})
    base.wanted = base.wanted.model_copy(update={"serve": serve})
    base.look()
    with pytest.raises(RecipeError, match=rf"serves with tensor-parallel-size = {devices}.*q_proj"):
        preflight.check(published(base, hub))


def test_the_hub_is_not_asked_for_what_is_there(base, hub):
    """An unchanged build needs no network."""
    job = published(base, hub)
    source = job.recipe.base
    downloads.take(source, source.files, job.store.root / "hub")
    hub.requests.clear()
    assert len(preflight.check(job).tensors) == len(base.arrays)
    assert hub.requests == []


def test_a_download_of_which_the_disk_gives_no_header(base, hub, monkeypatch):
    """It is set aside, and its header comes from the hub. The refusal is injected."""

    def refuse(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))  # of what is open, the system says no name

    job = published(base, hub)
    cache = job.store.root / "hub"
    downloads.take(job.recipe.base, job.recipe.base.files, cache)
    with monkeypatch.context() as patched:
        patched.setattr(tensorfile, "header_length", refuse)
        with pytest.raises(FetchError, match=rf"{cache}.*: Input/output error. The download is se"):
            preflight.check(job)
    assert len(list((job.store.root / "aside").iterdir())) == 1
    assert len(preflight.check(job).tensors) == len(base.arrays)


def test_a_header_that_is_longer_than_what_is_asked_for_first(base, hub, monkeypatch):
    monkeypatch.setattr("forge.inputs.hub.BEGINNING", 64)
    assert len(preflight.check(published(base, hub)).tensors) == len(base.arrays)


def lines(base):
    """The list of the tensors as fetch makes it."""
    found = tensorfile.read_checkpoint(base.write()).values()
    digests = ((one, sha256(one.read()).hexdigest()) for one in found)
    return {one.name: tensor_list.line(one.spec, digest, "x") for one, digest in digests}


def test_a_head_of_zeros(base):
    """All of its matrices; the norms may be zero."""
    head = [name for name in base.arrays if name.startswith("mtp.")]
    admission.require_head(base.wanted, lines(base), base.folder)
    for name in head:
        base.arrays[name] = np.zeros_like(base.arrays[name])
    with pytest.raises(BaseError, match=r"the base: all 8 matrices of the MTP head are zero"):
        admission.require_head(base.wanted, lines(base), base.folder)
    base.arrays["mtp.fc.weight"] = bf16(RNG, 32, 64)
    admission.require_head(base.wanted, lines(base), base.folder)


def looked_at(base, wanted, store):
    """What a build does before calibration: the preflight, fetch, and a look at what arrived."""
    job = Job(recipe=wanted, store=Store(store), rehearsal=True, base=base, level="none")
    job = fetch.choose(job)
    found = preflight.check(job)
    yield
    preflight.check_fetched(job, found, pipeline.run(job, until="fetch")["fetch"])


@pytest.mark.parametrize("stripped", [False, True])
def test_a_base_that_does_not_know_where_to_stop(tmp_path, stripped):
    """It is told before any file is fetched; one whose key the recipe strips says nothing."""
    base = local_base(tmp_path / "base")
    canonical.write(base / "generation_config.json", {"eos_token_id": 64})
    wanted = recipe.find(FLAGSHIP)
    if stripped:
        strip = {**wanted.strip, "generation_config.json": ("eos_token_id",)}
        wanted = wanted.model_copy(update={"strip": strip})
        assert list(looked_at(base, wanted, tmp_path / "store")) == [None]
        return
    with pytest.raises(BaseError, match=r"base/generation_config.json: eos_token_id is \[64\]"):
        next(looked_at(base, wanted, tmp_path / "store"))


def test_a_large_tokenizer_that_contradicts_where_to_stop(tmp_path):
    """It is read only when it is fetched."""
    base = local_base(tmp_path / "base")
    tokens = [{"id": 7, "content": "<end>"}, {"id": 8, "content": "x" * admission.SMALL}]
    canonical.write(base / "tokenizer.json", {"added_tokens": tokens})
    canonical.write(base / "tokenizer_config.json", {"eos_token": "<end>", "backend": "x"})
    steps = looked_at(base, recipe.find(FLAGSHIP), tmp_path / "store")
    next(steps)
    with pytest.raises(BaseError, match=r"eos_token_id is \[1\] and lacks 7, the tokenizer's"):
        next(steps)
