"""The fetch step lays out checked inputs, from wherever they are, in the same words everywhere."""

import hashlib
import io
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from hub_server import serve
from huggingface_hub import constants
from pyarrow import parquet

from forge import pipeline
from forge.core import canonical, disk
from forge.core.errors import (
    FetchError,
    NotReadyError,
    SpaceError,
    TensorFileError,
    UnpinnedError,
)
from forge.core.store import Store
from forge.inputs import fetch
from forge.inputs.mirror import SUMS
from forge.pipeline import Job, work_on
from forge.recipes.recipe import Donor, Mtp, Recipe
from forge.recipes.sources import Unresolved
from forge.tensors import tensor_list

from .test_standin import CONFIG, WEIGHTS, holding, make_standins

ROWS = ["One line.\n", "\n", " Two — lines.\n"]
TEXT = "".join(ROWS)
CHATS = [[{"role": "user", "content": f"Question {n}?", "name": "x"}] for n in range(3)]
TEMPLATE = "{{ messages }}"
MINE = holding(b"mine")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def table(column: str, rows: list) -> bytes:
    """A parquet file with one column."""
    sink = io.BytesIO()
    parquet.write_table(pa.table({column: rows}), sink)
    return sink.getvalue()


# Every pinned input, by kind and repository.
INPUTS = {
    ("model", "acme/base"): {"config.json": CONFIG, "a.safetensors": WEIGHTS, "README.md": b""},
    ("model", "acme/template"): {"a.jinja": TEMPLATE.encode()},
    ("dataset", "acme/chats"): {"chats.parquet": table("messages", CHATS)},
    ("dataset", "acme/text"): {"text.parquet": table("text", ROWS)},
}


@pytest.fixture
def small(flagship) -> Recipe:
    """The flagship with small inputs, all pinned."""
    pin = {"revision": COMMIT}
    base = {"repo": "acme/base", "files": ("*.safetensors", "config.json")}
    template = {"file": "a.jinja", "sha256": canonical.sha256_text(TEMPLATE)}
    llm = flagship.calibration.sets["llm"]
    chats = {"file": "chats.parquet", "rows": "single", "samples": 2, "repo": "acme/chats"}
    calibration = chats | pin
    perplexity = {"file": "text.parquet", "text_sha256": canonical.sha256_text(TEXT)}
    return change(
        flagship,
        base=base | pin,
        template=template | {"repo": "acme/template"} | pin,
        calibration={"sets": {"llm": llm.model_copy(update=calibration)}},
        perplexity=perplexity | {"repo": "acme/text", "config": "raw", "split": "test"} | pin,
    )


def change(recipe: Recipe, **changes: dict) -> Recipe:
    """The recipe with changed parts; `llm` is its calibration set."""
    if "llm" in changes:
        llm = recipe.calibration.sets["llm"].model_copy(update=changes.pop("llm"))
        changes["calibration"] = {"sets": {"llm": llm}}
    parts = {key: getattr(recipe, key).model_copy(update=new) for key, new in changes.items()}
    return recipe.model_copy(update=parts)


@pytest.fixture(autouse=True)
def standins(tmp_path, monkeypatch) -> Path:
    """Small stand-ins; and no hub, unless a test asks for one."""
    folder = make_standins(tmp_path / "standins")
    monkeypatch.setattr(fetch, "STANDINS", folder)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return folder


@pytest.fixture
def hub(standins, monkeypatch):  # noqa: ARG001 - they go offline first
    """A hub with every pinned input."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with serve() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        for (kind, repo), files in INPUTS.items():
            server.add(repo, files, kind=kind, commit=COMMIT)
        yield server


@pytest.fixture
def mirror(tmp_path) -> Path:
    """A mirror with every pinned input."""
    for (_, repo), files in INPUTS.items():
        put(tmp_path / "mirror", repo, files)
    return tmp_path / "mirror"


def put(mirror: Path, repo: str, files: dict[str, bytes]) -> None:
    folder = mirror / repo / COMMIT
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    sums = [f"{hashlib.sha256(data).hexdigest()}  ./{name}\n" for name, data in files.items()]
    (folder / SUMS).write_text("".join(sums), encoding="utf-8")


@pytest.fixture
def job(tmp_path, small):
    def make(recipe: Recipe = small, *, rehearsal: bool, **rest) -> Job:
        store = Store(tmp_path / "store")
        asked = Job(recipe=recipe, store=store, rehearsal=rehearsal, level="none", **rest)
        return fetch.choose(asked)

    return make


def run(job: Job, out: Path) -> dict:
    """Runs the step as the pipeline does and returns inputs.json, with the digests checked."""
    work = work_on(job, {})
    fetch.parameters(work)
    out.mkdir()
    known = fetch.run(work, out)
    assert known == {path: canonical.sha256_file(out / path) for path in known}
    return json.loads((out / "inputs.json").read_text(encoding="utf-8"))


def layout(out: Path) -> list[str]:
    return sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())


def samples(out: Path) -> list:
    (file,) = (out / "calibration/llm").glob("*.jsonl")
    lines = file.read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["messages"] for line in lines]


def kinds(inputs: dict) -> dict[str, str]:
    return {role: source["kind"] for role, source in inputs["sources"].items()}


ROLES = ("base", "template", "calibration.sets.llm", "perplexity")
STANDIN_ONLY = dict.fromkeys(ROLES, "standin")


def test_a_rehearsal_needs_nothing_but_the_standin(job, tmp_path):
    """Neither hub nor mirror, and the large files are linked."""
    out = tmp_path / "out"
    inputs = run(job(rehearsal=True), out)

    assert kinds(inputs) == STANDIN_ONLY
    assert layout(out) == [
        "base/config.json",
        "base/model.safetensors",
        "base/tokenizer.json",
        "calibration/llm/samples.jsonl",
        "inputs.json",
        "perplexity/text.txt",
        "template/chat_template.jinja",
        "tensors/base.jsonl",
    ]
    assert (out / "base/model.safetensors").is_symlink()
    (line,) = tensor_list.read(out / "tensors/base.jsonl").values()
    assert (line.name, line.nbytes, line.file) == ("x", 7, "model.safetensors")
    assert line.sha256 == canonical.sha256_text("weights")
    assert [chat[0]["content"][-7:] for chat in samples(out)] == ["Title 0", "Title 1"]
    assert (out / "perplexity/text.txt").read_text(encoding="utf-8").count("Title") == 3


def test_inputs_are_told_in_the_same_words_everywhere(job, tmp_path, standins, monkeypatch):
    """No folder of this machine and no time is in inputs.json."""
    run(job(rehearsal=True), tmp_path / "here")
    moved = tmp_path / "other machine"
    shutil.copytree(standins, moved)
    monkeypatch.setattr(fetch, "STANDINS", moved)
    run(job(rehearsal=True), tmp_path / "there")

    here, there = (tmp_path / name / "inputs.json" for name in ("here", "there"))
    assert here.read_bytes() == there.read_bytes()
    assert str(tmp_path) not in here.read_text(encoding="utf-8")


def test_parameters_follow_the_pins(job, standins):
    """The same twice; another digest of any input gives another key, without reading inputs."""
    before = fetch.parameters(work_on(job(rehearsal=True), {}))
    assert before == fetch.parameters(work_on(job(rehearsal=True), {}))

    card = standins / "qwen36-dense/standin.toml"
    card.write_text(
        card.read_text(encoding="utf-8").replace(hashlib.sha256(WEIGHTS).hexdigest(), "0" * 64),
        encoding="utf-8",
    )
    assert before != fetch.parameters(work_on(job(rehearsal=True), {}))


def test_the_key_does_not_depend_on_whether_the_hub_answers_now(job, hub):
    """It was asked once, when the build began; whoever is told of that agrees on the key."""
    asked = job(rehearsal=True)
    assert asked.origins["perplexity"] == "hub"
    count = len(hub.requests)
    before = fetch.parameters(work_on(asked, {}))
    hub.refusals["acme/text"] = (503, "")
    assert before == fetch.parameters(work_on(replace(asked), {}))
    assert count == len(hub.requests)
    assert job(rehearsal=True).origins["perplexity"] == "standin"


def test_a_mirror_that_loses_an_input_meanwhile_is_an_error(job, mirror):
    asked = job(rehearsal=False, mirror=mirror)
    shutil.rmtree(mirror / "acme/base")
    with pytest.raises(FetchError, match="acme/base when this build began"):
        fetch.parameters(work_on(asked, {}))


def test_the_store_skips_it_until_a_linked_file_changes(job, standins):
    """A link in the store does not hide that the file behind it is another one now."""
    first = pipeline.run(job(rehearsal=True), until="fetch")["fetch"]
    again = pipeline.run(job(rehearsal=True), until="fetch")["fetch"]
    assert again.record == first.record

    (standins / "qwen36-dense/checkpoint/model.safetensors").write_bytes(b"Weights")
    with pytest.raises(FetchError, match=r"model\.safetensors: has sha256"):
        pipeline.run(job(rehearsal=True), until="fetch")


def test_a_wrong_small_input_shows_before_the_large_ones(job, small, hub, tmp_path):
    """No byte of a checkpoint is downloaded for a recipe whose template is wrong."""
    recipe = change(small, template={"sha256": "0" * 64})
    with pytest.raises(FetchError, match=r"template\.sha256"):
        run(job(recipe, rehearsal=False), tmp_path / "out")
    assert not [request for request in hub.requests if "a.safetensors" in request]


def test_a_local_base_is_taken_and_named_by_its_content(job, tmp_path):
    base = tmp_path / "some folder"
    base.mkdir()
    (base / "a.safetensors").write_bytes(MINE)
    (base / "config.json").write_bytes(CONFIG)
    inputs = run(job(rehearsal=True, base=base), tmp_path / "out")

    assert kinds(inputs) == STANDIN_ONLY | {"base": "local"}
    assert inputs["sources"]["base"]["revision"] == "sha256:" + canonical.sha256_text(
        f"{hashlib.sha256(MINE).hexdigest()}  a.safetensors\n"
        f"{hashlib.sha256(CONFIG).hexdigest()}  config.json\n"
    )
    assert "some folder" not in json.dumps(inputs)
    assert (tmp_path / "out/base/a.safetensors").read_bytes() == MINE


def test_a_local_base_that_changes_is_refused(job, tmp_path):
    """Between the key and the work, by a stamp that a file of the same size has as well."""
    base = tmp_path / "base"
    base.mkdir()
    (base / "a.safetensors").write_bytes(MINE)
    asked = work_on(job(rehearsal=True, base=base), {})
    fetch.parameters(asked)
    (base / "a.safetensors").write_bytes(holding(b"Mine"))
    os.utime(base / "a.safetensors", ns=(1, 1))

    with pytest.raises(FetchError, match="changed since this command began"):
        fetch.run(asked, tmp_path / "out")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (MINE[:5], "is truncated"),
        (MINE[:20], "the header claims"),
        (MINE[:-1], r"offsets|the tensors end at"),
        (b"\xff" * 100, "the header claims"),
        ((2).to_bytes(8, "little") + b"{x", "the header is not valid JSON"),
    ],
)
def test_a_base_that_is_no_safetensors_file(job, tmp_path, data, message):
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "a.safetensors").write_bytes(data)
    with pytest.raises(TensorFileError, match=message):
        run(job(rehearsal=True, base=tmp_path / "base"), tmp_path / "out")


def test_a_rehearsal_takes_the_donor_from_the_standin(job, small, tmp_path):
    inputs = run(job(donated(small), rehearsal=True), tmp_path / "out")

    assert kinds(inputs)["donor"] == "standin"
    assert (tmp_path / "out/donor/model.safetensors").read_bytes() == WEIGHTS


def donated(small: Recipe, lends: tuple[str, ...] = ()) -> Recipe:
    """A recipe whose head is from a donor, which lends the base files as well."""
    files = ("mtp.safetensors", "config.json")
    donor = Donor(repo="acme/donor", revision=COMMIT, files=files, lends=lends)
    mtp = Mtp(source="donor", donor=donor, tensors=small.mtp.tensors)
    return small.model_copy(update={"mtp": mtp})


def test_the_donor_lends_what_the_base_lacks(job, small, mirror, tmp_path):
    """It lies in `base/`, and inputs.json tells that it is the donor's."""
    donor = {
        "mtp.safetensors": holding(b"head"),
        "processor.json": b'{"a": 1}',
        "config.json": b"{}",
    }
    put(mirror, "acme/donor", donor)
    recipe = donated(small, ("processor.json",))
    inputs = run(job(recipe, rehearsal=False, mirror=mirror), tmp_path / "out")

    assert (tmp_path / "out/base/processor.json").read_bytes() == b'{"a": 1}'
    assert (tmp_path / "out/base/config.json").read_bytes() == CONFIG
    told = [(file["role"], file["path"]) for file in inputs["files"]]
    assert ("donor", "processor.json") in told
    assert ("base", "processor.json") not in told


def test_a_base_of_a_rehearsal_keeps_what_the_donor_would_lend(job, small, standins, tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    (base / "a.safetensors").write_bytes(MINE)
    (base / "config.json").write_bytes(CONFIG)
    (base / "README.md").write_bytes(b"mine")
    recipe = donated(small, ("README.md",))
    run(job(recipe, rehearsal=True, base=base), tmp_path / "own")
    assert (tmp_path / "own/base/README.md").read_bytes() == b"mine"
    (base / "README.md").unlink()
    run(job(recipe, rehearsal=True, base=base), tmp_path / "lent")

    theirs = standins / "qwen36-dense/checkpoint/README.md"
    assert (tmp_path / "lent/base/README.md").read_bytes() == theirs.read_bytes()


def test_what_neither_base_nor_donor_has_is_refused(job, small, mirror, tmp_path):
    put(mirror, "acme/donor", {"mtp.safetensors": holding(b"head"), "config.json": b"{}"})
    recipe = donated(small, ("processor.json",))
    with pytest.raises(FetchError, match=r"has no file 'processor\.json'"):
        run(job(recipe, rehearsal=False, mirror=mirror), tmp_path / "real")
    with pytest.raises(FetchError, match=r"neither the base nor .* has 'processor\.json'"):
        run(job(recipe, rehearsal=True), tmp_path / "rehearsal")


def test_rows_that_are_joined_are_not_samples_yet(job, small, mirror, tmp_path):
    """Every row that the samples can take; on the stand-in, each article is a sample as ever."""
    recipe = change(small, llm={"rows": "joined", "max_tokens": 4, "samples": 1})
    out = tmp_path / "out"
    run(job(recipe, rehearsal=False, mirror=mirror), out)
    assert [path.name for path in (out / "calibration/llm").iterdir()] == ["rows.jsonl"]
    assert len(samples(out)) == len(CHATS)

    run(job(recipe, rehearsal=True), tmp_path / "rehearsal")
    (file,) = (tmp_path / "rehearsal/calibration/llm").iterdir()
    assert file.name == "samples.jsonl"
    assert len(samples(tmp_path / "rehearsal")) == 1


def test_no_more_rows_are_read_than_the_samples_can_take(job, small, mirror, tmp_path):
    """A row has a token at least, so two samples of one token are filled by two rows."""
    recipe = change(small, llm={"rows": "joined", "max_tokens": 1, "samples": 2})
    run(job(recipe, rehearsal=False, mirror=mirror), tmp_path / "out")
    assert len(samples(tmp_path / "out")) == 2


def test_a_rehearsal_takes_the_published_text_from_a_mirror(job, tmp_path):
    """And nothing else, so that its artifact does not depend on what a mirror holds."""
    (tmp_path / "mirror/raw").mkdir(parents=True)
    (tmp_path / "mirror/raw/test.txt").write_bytes(TEXT.encode())
    inputs = run(job(rehearsal=True, mirror=tmp_path / "mirror"), tmp_path / "out")

    assert kinds(inputs) == STANDIN_ONLY | {"perplexity": "mirror"}
    assert inputs["sources"]["perplexity"] == {
        "kind": "mirror",
        "name": "raw test",
        "revision": COMMIT,
        "uri": f"pkg:huggingface/datasets/acme/text@{COMMIT}",
    }
    assert (tmp_path / "out/perplexity/text.txt").read_bytes() == TEXT.encode()


def test_a_wrong_text_in_a_mirror_is_no_reason_to_look_elsewhere(job, tmp_path):
    (tmp_path / "mirror/raw").mkdir(parents=True)
    (tmp_path / "mirror/raw/test.txt").write_bytes(TEXT.encode() + b" ")
    with pytest.raises(FetchError, match=r"raw test has sha256 .* as perplexity\.text_sha256"):
        run(job(rehearsal=True, mirror=tmp_path / "mirror"), tmp_path / "out")


@pytest.mark.usefixtures("hub")
def test_a_rehearsal_takes_the_published_text_from_the_hub(job, tmp_path):
    inputs = run(job(rehearsal=True), tmp_path / "out")

    assert kinds(inputs) == STANDIN_ONLY | {"perplexity": "hub"}
    assert (tmp_path / "out/perplexity/text.txt").read_bytes() == TEXT.encode()


def test_a_wrong_text_on_the_hub_is_no_reason_to_look_elsewhere(job, hub, tmp_path):
    hub.forged["text.parquet"] = b"?" * len(INPUTS["dataset", "acme/text"]["text.parquet"])
    with pytest.raises(FetchError, match=r"text\.parquet: the download has sha256"):
        run(job(rehearsal=True), tmp_path / "out")


def check_real(inputs: dict, out: Path, kind: str) -> None:
    """Every input from one kind of source, its bytes the pinned ones."""
    assert set(kinds(inputs).values()) == {kind}
    assert (out / "base/a.safetensors").read_bytes() == WEIGHTS
    assert (out / "template/chat_template.jinja").read_text(encoding="utf-8") == TEMPLATE
    assert samples(out) == [[{"role": "user", "content": f"Question {n}?"}] for n in range(2)]
    assert (out / "perplexity/text.txt").read_bytes() == TEXT.encode()
    assert [file for file in inputs["files"] if file["path"] == "config.json"] == [
        {
            "role": "base",
            "path": "config.json",
            "sha256": canonical.sha256_text(CONFIG.decode()),
            "bytes": len(CONFIG),
            "uri": f"pkg:huggingface/acme/base@{COMMIT}#config.json",
        }
    ]


@pytest.mark.usefixtures("hub")
def test_a_real_build_takes_all_from_the_hub(job, tmp_path):
    out = tmp_path / "out"
    check_real(run(job(rehearsal=False), out), out, "hub")


def test_a_real_build_takes_all_from_the_mirror(job, mirror, tmp_path):
    """With no hub to be reached."""
    out = tmp_path / "out"
    check_real(run(job(rehearsal=False, mirror=mirror), out), out, "mirror")


def test_what_a_mirror_lacks_is_asked_of_the_hub(job, mirror, hub, tmp_path):
    shutil.rmtree(mirror / "acme/text")
    inputs = run(job(rehearsal=False, mirror=mirror), tmp_path / "out")

    assert kinds(inputs) == dict.fromkeys(STANDIN_ONLY, "mirror") | {"perplexity": "hub"}
    assert all("/acme/text/" in request for request in hub.requests)


def test_a_real_build_needs_every_pin(job, small):
    """An open pin is an error before anything is fetched."""
    loose = {"revision": Unresolved(unresolved="fb6bc2f")}
    with pytest.raises(UnpinnedError, match="is not resolved to a 40-hex commit"):
        job(change(small, llm=loose), rehearsal=False)


def test_a_real_build_needs_a_recipe_that_is_ready(job, small):
    """The reason is the recipe's own; a rehearsal starts all the same."""
    waiting = small.model_copy(update={"not_ready": "the names are strange"})
    with pytest.raises(NotReadyError, match=r"mtp\.toml: .* the names are strange\."):
        job(waiting, rehearsal=False)
    assert fetch.parameters(work_on(job(waiting, rehearsal=True), {}))


@pytest.mark.parametrize(
    ("part", "new", "fault"),
    [
        ("template", {"sha256": "0" * 64}, r"pins 0{64} as template\.sha256"),
        ("perplexity", {"text_sha256": "0" * 64}, r"pins 0{64} as perplexity\.text_sha256"),
        ("perplexity", {"column": "words"}, r"has the columns \['text'\], none is 'words'"),
        ("perplexity", {"file": "other.parquet"}, r"has no file 'other\.parquet'"),
        ("llm", {"samples": 4}, r"has 3 rows, .* takes 4 samples; no row is used twice"),
        ("llm", {"column": "chat"}, "none is 'chat'"),
        ("base", {"files": ("*.safetensors", "tokenizer.json")}, r"has no file 'tokenizer\.json'"),
    ],
)
def test_a_recipe_that_does_not_fit_its_inputs_is_refused(job, small, mirror, tmp_path, part, new, fault):  # fmt: skip  # noqa: E501, PLR0917
    recipe = change(small, **{part: new})
    with pytest.raises(FetchError, match=fault):
        run(job(recipe, rehearsal=False, mirror=mirror), tmp_path / "out")


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        (["text", ""], r"chats\.parquet, row 1: is neither text nor a list of messages"),
        ([CHATS[0], []], "row 1: is neither text nor a list of messages"),
        ([CHATS[0], [{"role": None, "content": "a"}]], "row 1: is neither text nor"),
        ([CHATS[0], [{"role": "user", "content": None}]], "row 1: has a content that is neither"),
    ],
)
def test_rows_that_are_no_messages_are_refused(job, mirror, tmp_path, rows, fault):
    put(mirror, "acme/chats", {"chats.parquet": table("messages", rows)})
    with pytest.raises(FetchError, match=fault):
        run(job(rehearsal=False, mirror=mirror), tmp_path / "out")


WHOLE = table("messages", [[{"role": "user", "content": "Question? " * 99}]] * 99)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"PAR?", "Parquet file size is 4 bytes"),
        (WHOLE[: len(WHOLE) // 2], "Parquet magic bytes not found"),
        # The footer is whole, and what it tells of is not.
        (WHOLE[:4] + bytes(len(WHOLE) // 2) + WHOLE[4 + len(WHOLE) // 2 :], ""),
        (b"version https://git-lfs.github.com/spec/v1\n", "Parquet magic bytes not found"),
    ],
)
def test_a_file_that_is_no_parquet_is_refused(job, mirror, tmp_path, data, said):
    """With what pyarrow has against it, in one line."""
    put(mirror, "acme/chats", {"chats.parquet": data})
    with pytest.raises(FetchError, match=f"no readable parquet file: pyarrow says: .*{said}"):
        run(job(rehearsal=False, mirror=mirror), tmp_path / "out")


def test_text_that_is_no_text_is_refused(job, mirror, tmp_path):
    """A string column with bytes that are no UTF-8, which parquet itself does not look at."""
    broken = pa.array([b"\xff\xfe"], pa.binary()).view(pa.binary())
    column = pa.StringArray.from_buffers(1, broken.buffers()[1], broken.buffers()[2])
    sink = io.BytesIO()
    parquet.write_table(pa.table({"messages": column}), sink)
    put(mirror, "acme/chats", {"chats.parquet": sink.getvalue()})
    with pytest.raises(FetchError, match=r"pyarrow says: UnicodeDecodeError: 'utf-8' codec"):
        run(job(rehearsal=False, mirror=mirror), tmp_path / "out")


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 123\n"


@pytest.mark.parametrize("name", ["config.json", "a.safetensors"])
def test_a_pointer_of_git_lfs_is_refused(job, mirror, tmp_path, name):
    put(mirror, "acme/base", INPUTS["model", "acme/base"] | {name: POINTER})
    with pytest.raises(FetchError, match=f"{name}: is a pointer of git-lfs.* `git lfs pull`"):
        run(job(rehearsal=False, mirror=mirror), tmp_path / "out")


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        (None, "^the base of .* has no config.json"),
        (b"", r"config\.json: is no JSON in UTF-8: Expecting value"),
        (b"[" * 100_000, r"config\.json: is no JSON in UTF-8: "),
        ("\ufeff{}".encode(), r"config\.json: is no JSON in UTF-8: Unexpected UTF-8 BOM"),
        (b"\xff", r"config\.json: is no JSON in UTF-8: 'utf-8' codec can't decode"),
        (b"[]", r"config\.json: architectures is None, the recipe .* is for Qwen3_5For"),
        (b'{"model_type": "qwen3_5"}', r"config\.json: architectures is None"),
        (CONFIG.replace(b"Qwen3_5", b"Other"), r"architectures is \['OtherForConditional"),
        (CONFIG.replace(b"model_type", b"model"), r"config\.json: model_type is None"),
    ],
)
def test_a_base_that_no_model_can_be_made_of_is_refused(job, tmp_path, config, fault):
    """Before a library is asked, which would take gigabytes and minutes to find out."""
    base = tmp_path / "mine"
    base.mkdir()
    (base / "a.safetensors").write_bytes(WEIGHTS)
    if config is not None:
        (base / "config.json").write_bytes(config)
    with pytest.raises(FetchError, match=fault) as told:
        run(job(rehearsal=True, base=base), tmp_path / "out")
    assert told.value.remedy == "wrong-base"


def test_room_for_all_downloads_is_asked_for_before_the_first(job, hub, tmp_path, monkeypatch):
    """Each alone would fit; the error has the sum of all, and nothing was downloaded."""
    total = sum(len(data) for files in INPUTS.values() for data in files.values())
    needed = total - len(INPUTS["model", "acme/base"]["README.md"])
    monkeypatch.setattr(disk, "free", lambda _: needed - 1)
    wanted = f"takes {needed / 1e6:.3f} MB, and {(needed - 1) / 1e6:.3f} MB are free at {tmp_path}"
    with pytest.raises(SpaceError, match=f"^what is still to be fetched {wanted}"):
        run(job(rehearsal=False), tmp_path / "out")
    assert not [request for request in hub.requests if "/resolve/" in request]

    monkeypatch.setattr(disk, "free", lambda _: needed)
    run(job(rehearsal=False), tmp_path / "exactly")
    # What is there already needs no room.
    monkeypatch.setattr(disk, "free", lambda _: 0)
    run(job(rehearsal=False), tmp_path / "again")


def test_a_text_column_of_numbers_is_refused(job, mirror, tmp_path):
    put(mirror, "acme/text", {"text.parquet": table("text", [1, 2])})
    with pytest.raises(FetchError, match="holds more than text"):
        run(job(rehearsal=False, mirror=mirror), tmp_path / "out")
