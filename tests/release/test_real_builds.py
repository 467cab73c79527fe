"""A real build by a mirror or the hub passes every step: what is derived is what a build writes."""

import io
from hashlib import sha256

import pyarrow as pa
import pytest
from conftest import FLAGSHIP
from hub_server import serve
from huggingface_hub import constants
from pyarrow import parquet
from released import calibrated_by_hand, local_base

from assay.release import asked, steps, verify
from forge import pipeline
from forge.core.store import Store
from forge.inputs import fetch, mirror
from forge.manifest.policy import Policy
from forge.pipeline import Job
from forge.recipes import recipe
from forge.release import assemble
from forge.release.placement import place

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ROWS = ["One line.\n", "\n", " Two lines.\n"]
CHATS = [[{"role": "user", "content": f"Question {n}?"}] for n in range(3)]
TEMPLATE = b"{{ messages }}"


def table(column, rows):
    sink = io.BytesIO()
    parquet.write_table(pa.table({column: rows}), sink)
    return sink.getvalue()


@pytest.fixture
def inputs(tmp_path):
    """The files of every repository, by its kind and name."""
    base = local_base(tmp_path / "base")
    files = {path.name: path.read_bytes() for path in base.iterdir()}
    # What the recipe does not name: two files of a tokenizer, and two that are not taken.
    files |= dict.fromkeys(("added_tokens.json", "special_tokens_map.json"), b"{}")
    files |= dict.fromkeys(("additional_chat_templates/tool_use.jinja", "README.md"), b"base")
    return {
        ("model", "acme/base"): files,
        ("model", "acme/template"): {"a.jinja": TEMPLATE},
        ("dataset", "acme/chats"): {"chats.parquet": table("messages", CHATS)},
        ("dataset", "acme/text"): {"text.parquet": table("text", ROWS)},
    }


@pytest.fixture
def variant(monkeypatch):
    """The flagship with small inputs, wherever it is looked for."""
    whole = recipe.find(FLAGSHIP)
    pin = {"revision": COMMIT}
    text = sha256("".join(ROWS).encode()).hexdigest()
    chats = {"repo": "acme/chats", "file": "chats.parquet", "rows": "single", "samples": 2}
    llm = whole.calibration.sets["llm"].model_copy(update=chats | pin)
    digest = {"file": "a.jinja", "sha256": sha256(TEMPLATE).hexdigest()}
    files = ("*.safetensors", "*.index.json", "config.json", "*_config.json")
    scored = {"repo": "acme/text", "file": "text.parquet", "text_sha256": text}
    scored |= {"config": "raw", "split": "test"}
    small = whole.model_copy(
        update={
            "base": whole.base.model_copy(update={"repo": "acme/base", "files": files} | pin),
            "template": whole.template.model_copy(update={"repo": "acme/template"} | digest | pin),
            "calibration": whole.calibration.model_copy(update={"sets": {"llm": llm}}),
            "perplexity": whole.perplexity.model_copy(update=scored | pin),
        }
    )
    monkeypatch.setattr(recipe, "find", lambda _: small)
    monkeypatch.setattr(asked, "read", lambda _: small)
    return small


def verified(root, variant, source):
    """What is said of a real build that takes its inputs from a mirror or from the hub."""
    job = Job(
        recipe=variant, store=Store(root / "store"), rehearsal=False, mirror=source,
        level="structure",
    )  # fmt: skip
    job = fetch.choose(job)
    fetched = pipeline.run(job, until="fetch")
    given = {**fetched, "calibrate": calibrated_by_hand(job, fetched)}
    place(pipeline.run(job, given=given), root / "release")
    assemble.assemble(root / "release")
    said = []
    policy = Policy(builders=("urn:hallmark:builder:host",))
    verify.verify(root / "release", steps.Demands(trust=None, policy=policy), said.append)
    for name in ("added_tokens.json", "special_tokens_map.json", "tokenizer.json"):
        assert (root / "release" / name).is_file()
    assert not (root / "release/additional_chat_templates").exists()
    assert (root / "release/README.md").read_bytes() != b"base"
    return [line.split()[1] for line in said]


@pytest.mark.parametrize("joined", [False, True])
def test_from_a_mirror(tmp_path, variant, inputs, joined):
    """Whose perplexity text is a table, or the split's text."""
    folder = tmp_path / "mirror"
    for (_, repo), files in inputs.items():
        if joined and repo == "acme/text":
            (folder / "raw").mkdir()
            (folder / "raw/test.txt").write_text("".join(ROWS), encoding="utf-8")
            continue
        there = folder / repo / COMMIT
        there.mkdir(parents=True)
        for name, data in files.items():
            (there / name).parent.mkdir(exist_ok=True)
            (there / name).write_bytes(data)
        lines = [f"{sha256(data).hexdigest()}  {name}\n" for name, data in files.items()]
        (there / mirror.SUMS).write_text("".join(lines), encoding="utf-8")
    assert verified(tmp_path, variant, folder) == ["pass"] * len(verify.STEPS)


def test_from_the_hub(tmp_path, variant, inputs, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with serve() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        for (kind, repo), files in inputs.items():
            server.add(repo, files, kind=kind, commit=COMMIT)
        assert verified(tmp_path, variant, None) == ["pass"] * len(verify.STEPS)
