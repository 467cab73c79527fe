"""A base or a sample that the libraries do not take is told in one line, with their reason."""

import functools
import json
import logging
import re
import shutil
from dataclasses import replace

import pytest
from conftest import FLAGSHIP, cut_samples

from forge import pipeline
from forge.calibration import batches, calibrate, with_llmcompressor, with_modelopt
from forge.core.errors import CalibrationError
from forge.core.libraries import telling
from forge.core.store import Store
from forge.inputs import fetch, standin
from forge.pipeline import Job, work_on
from forge.recipes import recipe
from forge.tensors import checkpoint

pytestmark = pytest.mark.libraries
PICTURED = "qwen36-27b-vlm-mixedcal"
ENGINES = {"modelopt": with_modelopt, "llm-compressor": with_llmcompressor}
HUGE = 1 << 46  # tokens whose embeddings no machine has memory for


@pytest.fixture(scope="module")
def fetched(tmp_path_factory):
    """The store after fetch, of a variant; one sample a set."""

    @functools.cache
    def get(variant):
        root = tmp_path_factory.mktemp(variant)
        job = Job(recipe=recipe.find(variant), store=Store(root / "store"), rehearsal=True)
        work = work_on(fetch.choose(job), {})
        result = job.store.make("fetch", "key", lambda out: fetch.run(work, out), {})
        cut_samples(result.files, 1)
        return job, result

    return get


@pytest.fixture
def spoilt(fetched, tmp_path):
    """The work of a calibration whose inputs can be edited, and where these are."""

    def get(variant=FLAGSHIP):
        job, result = fetched(variant)
        inputs = shutil.copytree(result.files, tmp_path / "inputs")  # files, not links
        job = replace(job, store=Store(tmp_path / "store"))
        return work_on(job, {"fetch": replace(result, files=inputs)}), inputs

    return get


@pytest.fixture(autouse=True)
def _log_to_the_stream_of_now(monkeypatch):
    """Transformers logs to what was standard error at its import; in a build the step imports it.

    Here a test before this one may have done so.
    """
    for handler in logging.getLogger("transformers").handlers:
        if type(handler) is logging.StreamHandler:  # pytest has handlers there, too
            monkeypatch.setattr(handler, "__class__", type(logging.lastResort))


def refusal(work, out):
    """The one line that the step ends with."""
    out.mkdir()
    with pytest.raises(CalibrationError) as told, telling():
        calibrate.run(work, out)
    said = str(told.value)
    assert len(said.splitlines()) == 1
    return said


def text_config(**changes):
    def edit(text):
        config = json.loads(text)
        config["text_config"] |= changes
        return json.dumps(config)

    return edit


@pytest.mark.parametrize(
    ("file", "edit", "fault"),
    [
        (
            "tokenizer.json",
            lambda text: text[:1000],
            "tokenizer cannot be loaded: transformers say",
        ),
        ("tokenizer.json", lambda _: "[]", "says: AttributeError: 'list' object has no"),
        ("tokenizer_config.json", lambda _: "{", "tokenizer cannot be loaded: .* JSONDecodeError"),
        (
            "chat_template.jinja",
            lambda _: "{% for x in %}",
            "line 1: the base's chat template does",
        ),
        ("chat_template.jinja", lambda _: "{{ raise_exception('no!') }}", "TemplateError: no!"),
        ("chat_template.jinja", lambda _: "{{ a.b.c }}", "UndefinedError: 'a' is undefined"),
        ("config.json", text_config(hidden_act="nope"), "as Qwen3_5For.*says: KeyError: 'nope'"),
        ("config.json", text_config(num_hidden_layers="x"), "'num_hidden_layers': TypeError: Fie"),
        ("config.json", text_config(vocab_size=77), "says: You set `ignore_mismatched_sizes`"),
    ],
)
def test_a_base_that_transformers_does_not_take(spoilt, tmp_path, file, edit, fault):
    """Each file really read by it; that fetch has hashed the file does not mend it."""
    work, inputs = spoilt()
    path = inputs / "base" / file
    path.write_text(edit(path.read_text(encoding="utf-8")), encoding="utf-8")
    assert re.search(fault, refusal(work, tmp_path / "out"))


def test_the_log_has_what_an_error_leaves_out(spoilt, tmp_path):
    """Of sizes that differ, transformers names the tensors in a report and none in its error."""
    work, inputs = spoilt()
    path = inputs / "base/config.json"
    edit = text_config(vocab_size=77)
    path.write_text(edit(path.read_text(encoding="utf-8")), encoding="utf-8")
    refusal(work, tmp_path / "out")
    log = (tmp_path / "out" / calibrate.LOG).read_text(encoding="utf-8")
    assert "embed_tokens.weight" in log


def test_a_failed_build_says_where_the_log_is(tmp_path):
    """It is kept outside of the step, whose folder is gone."""
    base = shutil.copytree(standin.ROOT / "qwen36-dense" / "checkpoint", tmp_path / "base")
    (base / "tokenizer.json").write_text("{}", encoding="utf-8")
    wanted = recipe.find(FLAGSHIP)
    origins = {**dict.fromkeys(wanted.sources, "standin"), "base": "local"}
    store = Store(tmp_path / "store")
    job = Job(recipe=wanted, store=store, rehearsal=True, base=base, origins=origins)
    kept = store.root / "failed" / wanted.name
    with pytest.raises(CalibrationError, match="tokenizer cannot be loaded: trans") as told:
        pipeline.run(job, until="calibrate")
    said = str(told.value)
    assert said.endswith(f" Kept in {kept}: {calibrate.LOG}.")
    assert len(said.splitlines()) == 1
    assert (kept / calibrate.LOG).is_file()

    (kept / calibrate.LOG).unlink()
    kept.rmdir()
    kept.parent.rmdir()
    kept.parent.touch()
    with pytest.raises(CalibrationError, match=r"tokenizer .* Its logs could not be kept: .*Not a"):
        pipeline.run(job, until="calibrate")


@pytest.mark.parametrize("name", ENGINES)
def test_weights_that_are_no_weights(spoilt, name):
    """Cut after fetch; each engine loads the base itself."""
    _, inputs = spoilt()
    path = inputs / "base/model-00001-of-00002.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    load = {"modelopt": with_modelopt.load, "llm-compressor": with_llmcompressor._load}[name]
    told = pytest.raises(CalibrationError, match="transformers says: SafetensorError: Error while")
    with told, telling():
        load(recipe.find(FLAGSHIP), inputs / "base")


def test_an_architecture_that_transformers_does_not_know(spoilt):
    _, inputs = spoilt()
    other = recipe.find(FLAGSHIP).model_copy(update={"architecture": "NopeForCausalLM"})
    told = pytest.raises(CalibrationError, match="transformers has no attribute NopeForCausalLM")
    with told, telling():
        with_modelopt.load(other, inputs / "base")


@pytest.mark.parametrize(
    ("file", "data", "fault"),
    [
        ("preprocessor_config.json", None, "processor cannot be loaded: transformers says: Can't"),
        ("preprocessor_config.json", b"{", "is not a valid JSON file"),
        ("picture", b"no picture", r"\.png cannot be read: Pillow says: UnidentifiedImageError"),
        ("picture", b"", r"\.png cannot be read: Pillow says: UnidentifiedImageError"),
    ],
)
def test_pictures(spoilt, file, data, fault):
    work, inputs = spoilt(PICTURED)
    path = inputs / "base" / file
    if file == "picture":
        folder = inputs / "calibration" / next(iter(work.recipe.calibration.sets))
        (sample,) = batches._lines(folder / "samples.jsonl")
        path = next(iter(batches._files(sample[1], folder)))
    if data is None:
        path.unlink()
    else:
        path.write_bytes(data)
    with pytest.raises(CalibrationError, match=fault), telling():
        batches.read(work.recipe, inputs)


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("count", [1, HUGE])
def test_a_forward_pass_that_fails(spoilt, name, count):
    """At a token that the model does not have, or for want of memory; really computed."""
    import torch

    work, inputs = spoilt()
    made = checkpoint.read(work.recipe, inputs)
    ids = torch.full((1, 1), 10**6 if count == 1 else 0).expand(1, count)
    sample = batches.Batch(
        set="llm", language_model_only=True, ids=(), rows=(0, 3), inputs=lambda: {"input_ids": ids}
    )
    with pytest.raises(CalibrationError) as told, telling():
        ENGINES[name].watch(made, inputs / "base", [sample])
    said = str(told.value)
    assert len(said.splitlines()) == 1
    if name == "modelopt":
        assert said.startswith("calibration.sets.llm, rows 0-3: the forward pass fails: torch says")
    assert ("index out of range" if count == 1 else "allocate") in said
