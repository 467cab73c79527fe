"""The whole demo: the flagship rehearsed as `make demo` does it, with a real vLLM, and its gates
fed with broken artifacts. The first steps run in the build environment, which nox has made."""

import shutil

import pytest
from conftest import FLAGSHIP

from assay.serving import engine, perplexity, smoke
from assay.serving.perplexity import Text
from forge.recipes import recipe
from forge.tensors import tensorfile

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def rehearsed(rehearse):
    return rehearse(FLAGSHIP)


@pytest.fixture(scope="module")
def checks(rehearsed):
    return rehearsed.checks()


def test_table_at_the_end(rehearsed):
    """Sizes, both perplexities, acceptance, and where the result lies."""
    for label in (
        "weights of the base", "weights of the result", "perplexity scored on",
        "perplexity of the base", "perplexity of the result", "MTP acceptance, position 1",
        str(rehearsed.out),
    ):  # fmt: skip
        assert label in rehearsed.said


def test_nothing_passed_by_default(checks):
    assert all(check["passed"] and check["measured"] for check in checks.values())
    assert {
        "structure.mtp", "structure.kept", "structure.quantized", "structure.scales",
        "structure.siblings", "structure.parallel", "structure.ignore", "structure.config",
        "structure.index", "structure.names", "structure.files", "structure.weights",
        "structure.digests", "structure.sources",
        "perplexity", "smoke.profiles", "smoke.health",
        "smoke.chat.thinking_on", "smoke.chat.thinking_off",
        "smoke.tool_call", "smoke.tool_parser", "smoke.image", "smoke.mtp",
        "smoke.greedy_identical",
    } == checks.keys()  # fmt: skip


def test_second_run_does_no_work(rehearsed):
    said = rehearsed.again()
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
    unigram = unigram_perplexity(rehearsed.out, text)
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
    broken = shutil.copytree(rehearsed.out, tmp_path / "broken")
    for layer in range(2):
        name = f"model.language_model.layers.{layer}.mlp.down_proj.weight"
        tensor = tensorfile.read_checkpoint(broken)[name]
        row = tensor.nbytes // tensor.shape[0]
        data = tensor.read()
        rows = [data[start : start + row] for start in range(0, len(data), row)]
        with tensor.file.open("r+b") as file:
            file.seek(tensor.offset)
            file.write(b"".join(reversed(rows)))
    measured = rehearsed.checks()["perplexity"]["measured"]
    flagship = recipe.find(FLAGSHIP)
    text = Text(
        name="t",
        content=rehearsed.text(),
        window=flagship.perplexity.window,
        max_windows=measured["windows"],
    )
    fitted = smoke.fit(broken, flagship.serve)
    log = tmp_path / "log"
    with engine.serve(
        broken, fitted.args, env=fitted.env, speculative_tokens=None, log=log
    ) as server:
        figures = perplexity.compare(
            server.ready(),
            base=rehearsed.base(),
            text=text,
            args={"base": {}, "result": {}},
        )
    assert figures.problem(flagship).endswith("times the base's, above 1.1")
    assert figures.ratio > flagship.perplexity.max_ratio
