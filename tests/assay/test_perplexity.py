"""Perplexity: how a text is cut, what passes, and that damage to a single layer does not."""

import math
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay import perplexity
from assay.perplexity import Perplexity, split, verdict
from forge import canonical, identity, tensorfile

STANDIN = identity.ROOT / "build/standins/qwen36-dense/checkpoint"
CORPUS = identity.ROOT / "build/standins/corpus/evaluation"


def figures(value, *, windows=2, tokens=600):
    return Perplexity(
        windows=windows, tokens=tokens, scored=tokens - windows, value=value,
        mean_nll=math.log(value), seconds=1.0,
    )  # fmt: skip


def judge(base, result, max_ratio=1.1):
    return verdict(base, result, max_ratio=max_ratio, asked={"text": "a text"})


@given(st.lists(st.integers(), max_size=300), st.integers(min_value=2, max_value=70))
def test_windows_are_the_text_cut_and_nothing_else(tokens, window):
    """No overlap, no loss, every window full but the last, which is not empty."""
    windows = split(tokens, window)
    assert tokens == [token for part in windows for token in part]
    assert all(len(part) == window for part in windows[:-1])
    assert all(1 <= len(part) <= window for part in windows[-1:])
    assert math.ceil(len(tokens) / window) == len(windows)


def test_figures_of_the_published_protocol():
    """297,053 tokens in windows of 512 are 581 windows with 296,472 scored tokens."""
    windows = split(range(297_053), 512)
    assert len(windows) == 581
    assert sum(len(window) - 1 for window in windows) == 296_472


def test_ratio_decides():
    assert judge(figures(8.0), figures(8.8)).passed
    failed = judge(figures(8.0), figures(8.81))
    assert not failed.passed
    assert failed.measured["ratio"] == pytest.approx(8.81 / 8)
    assert failed.measured["difference"] == pytest.approx(0.81)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("broken", ["base", "result"])
def test_a_figure_that_is_no_number_fails_and_can_be_written(value, broken):
    """A NaN compares false with everything and an infinite base makes any ratio small."""
    values = {"base": figures(8.0), "result": figures(8.0), broken: figures(value)}
    check = judge(values["base"], values["result"])
    assert not check.passed
    assert check.measured[broken] is None
    canonical.dumps(check.as_json())


def test_other_tokens_are_not_compared():
    check = judge(figures(8.0), figures(8.0, tokens=601))
    assert not check.passed
    assert "600" in check.detail
    assert "601" in check.detail


@pytest.mark.engine
def test_shuffled_layer_fails(tmp_path):
    """One linear of one layer with its rows reversed, which no check of structure can see."""
    broken = shutil.copytree(STANDIN, tmp_path / "broken")
    tensor = tensorfile.read_checkpoint(broken)[
        "model.language_model.layers.1.mlp.down_proj.weight"
    ]
    data, row = tensor.read(), tensor.nbytes // tensor.shape[0]
    rows = [data[start : start + row] for start in range(0, len(data), row)]
    with tensor.file.open("r+b") as file:
        file.seek(tensor.offset)
        file.write(b"".join(reversed(rows)))
    text = "\n".join(path.read_text(encoding="utf-8") for path in sorted(CORPUS.glob("*.txt")))
    check = perplexity.compare(
        STANDIN, broken, text, window=128, max_ratio=1.1, text_name="corpus", workdir=tmp_path,
        max_windows=16,
    )  # fmt: skip
    assert not check.passed, check
    assert check.measured["ratio"] > 1.1
    assert check.measured["tokens"] == 16 * 128
    assert check.measured["scored"] == 16 * 127
    assert check.measured["settings"]["max_windows"] == 16


@pytest.mark.engine
def test_engine_that_fails_is_a_failed_check(tmp_path):
    """The check says which checkpoint, and ends with what the engine said last."""
    check = perplexity.compare(
        tmp_path, tmp_path, "text", window=8, max_ratio=1.1, text_name="t", workdir=tmp_path / "w",
    )  # fmt: skip
    assert not check.passed
    assert f"scoring {tmp_path} ended with exit code 1" in check.detail
    assert "config.json" in check.detail
