"""The whole demo: the flagship rehearsed as `make demo` does it, with a real vLLM, and its gates
fed with broken artifacts. The first steps run in the build environment, which nox has made."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from conftest import FLAGSHIP

from assay import engine, perplexity, smoke
from assay.perplexity import Perplexity, Text
from forge import identity, recipe, tensorfile

pytestmark = pytest.mark.engine
BUILD_PYTHON = identity.ROOT / ".nox" / "build" / "bin" / "python"


def forge(root, environment, *options):
    """One half of a rehearsal, in its environment; returns what it said."""
    python = BUILD_PYTHON if environment == "build" else sys.executable
    done = subprocess.run(
        [
            str(python), "-m", "forge", "run", FLAGSHIP, "--rehearse", *options,
            "--store", str(root / "store"), "--out", str(root / "out"),
            f"--environment={environment}",
        ],
        capture_output=True, text=True, check=False, env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stderr + done.stdout


@pytest.fixture(scope="module")
def options(request):
    mirror = request.config.getoption("--mirror")
    return ["--mirror", str(mirror)] if mirror else []


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory, options):
    root = tmp_path_factory.mktemp("rehearsed")
    said = forge(root, "build", *options) + forge(root, "verify", *options)
    return root, said


@pytest.fixture(scope="module")
def checks(rehearsed):
    report = json.loads((rehearsed[0] / "out/provenance/verification.json").read_text())
    assert report["passed"]
    return {check["name"]: check for check in report["checks"]}


def test_table_at_the_end(rehearsed):
    """Sizes, both perplexities, acceptance, and where the result lies."""
    root, said = rehearsed
    for label in (
        "weights of the base", "weights of the result", "perplexity scored on",
        "perplexity of the base", "perplexity of the result", "MTP acceptance, position 1",
        str(root / "out"),
    ):  # fmt: skip
        assert label in said


def test_nothing_passed_by_default(checks):
    assert all(check["passed"] and check["measured"] for check in checks.values())
    assert {
        "structure.mtp", "structure.kept", "structure.quantized", "structure.scales",
        "structure.ignore", "structure.index", "structure.names", "structure.files",
        "perplexity", "smoke.profiles", "smoke.health",
        "smoke.chat.thinking_on", "smoke.chat.thinking_off",
        "smoke.tool_call", "smoke.tool_parser", "smoke.image", "smoke.mtp",
        "smoke.greedy_identical",
    } == checks.keys()  # fmt: skip


def test_second_run_does_no_work(rehearsed, options):
    root, _ = rehearsed
    said = forge(root, "build", *options) + forge(root, "verify", *options)
    assert "done in" not in said
    assert "is up to date" in said


def test_the_standin_is_trained(checks, rehearsed, request):
    """On wikitext-2 its perplexity beats an unigram model of the same tokenizer threefold, and
    the head's drafts are accepted."""
    mirror = request.config.getoption("--mirror")
    if mirror is None:
        pytest.skip("wikitext-2 is not ours to ship; give a folder that has it with --mirror")
    assert checks["perplexity"]["measured"]["text"] == "wikitext-2-raw-v1 test"
    text = (mirror / "wikitext-2-raw-v1" / "test.txt").read_text(encoding="utf-8")
    unigram = unigram_perplexity(rehearsed[0] / "out", text)
    assert unigram > 3 * checks["perplexity"]["measured"]["base"]


def unigram_perplexity(checkpoint, text):
    """The best any unigram model can do: the entropy of the text's own token frequencies."""
    import numpy as np
    from transformers import AutoTokenizer

    ids = AutoTokenizer.from_pretrained(checkpoint)(text)["input_ids"]
    counts = np.unique(ids, return_counts=True)[1] / len(ids)
    return float(np.exp(-(counts * np.log(counts)).sum()))


def test_shuffled_layer_fails_the_perplexity_gate(rehearsed, tmp_path):
    """Two linears with their rows in another order: no structural check can see it."""
    root, _ = rehearsed
    broken = shutil.copytree(root / "out", tmp_path / "broken")
    for layer in range(2):
        name = f"model.language_model.layers.{layer}.mlp.down_proj.weight"
        tensor = tensorfile.read_checkpoint(broken)[name]
        row = tensor.nbytes // tensor.shape[0]
        data = tensor.read()
        rows = [data[start : start + row] for start in range(0, len(data), row)]
        with tensor.file.open("r+b") as file:
            file.seek(tensor.offset)
            file.write(b"".join(reversed(rows)))
    (stored,) = (root / "store" / "perplexity").glob("*/files/perplexity.json")
    (scored,) = (root / "store" / "fetch").glob("*/files/perplexity/text.txt")
    flagship = recipe.find(FLAGSHIP)
    text = Text(
        name="t", content=scored.read_text(encoding="utf-8"), window=flagship.perplexity.window
    )
    fitted = smoke.fit(broken, flagship.serve)
    log = tmp_path / "log"
    with engine.serve(
        broken, fitted.args, env=fitted.env, speculative_tokens=None, log=log
    ) as server:
        check = perplexity.compare(
            server.ready(),
            base=Perplexity(**json.loads(stored.read_text())),
            text=text,
            max_ratio=flagship.perplexity.max_ratio,
            settings={},
        )
    assert not check.passed
    assert check.measured["ratio"] > flagship.perplexity.max_ratio
