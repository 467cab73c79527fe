"""Perplexity: how a text is cut, what passes, and that damage to a single layer does not."""

import math

import pytest
from conftest import of_few
from hypothesis import given
from hypothesis import strategies as st

from assay.serving import perplexity
from assay.serving.perplexity import Perplexity, Text, split
from forge.core import canonical
from forge.manifest import verification
from forge.manifest.served_figures import Settings


def figures(value, *, windows=2, tokens=600):
    return Perplexity(
        windows=windows, tokens=tokens, scored=tokens - windows, value=value,
        mean_nll=math.log(value), seconds=1.0,
    )  # fmt: skip


SETTINGS = Settings(window=512, max_windows=None, base={}, result={})


def judge(flagship, base, result):
    """The check of two measurements under the flagship's largest ratio, 1.1."""
    return verification.check(
        "perplexity",
        of_few(flagship),
        lambda: perplexity.figures(base, result, text="a text", settings=SETTINGS),
    )


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


def test_ratio_decides(flagship):
    assert judge(flagship, figures(8.0), figures(8.8)).passed
    failed = judge(flagship, figures(8.0), figures(9.0))
    assert not failed.passed
    assert failed.problem == "perplexity is 1.1250 times the base's, above 1.1"
    assert failed.measured.ratio == 9.0 / 8


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("broken", ["base", "result"])
def test_a_figure_that_is_no_number_fails_and_can_be_written(flagship, value, broken):
    """A NaN compares false with everything and an infinite base makes any ratio small."""
    values = {"base": figures(8.0), "result": figures(8.0), broken: figures(value)}
    check = judge(flagship, values["base"], values["result"])
    assert not check.passed
    assert f"{broken} {value}" in check.problem
    canonical.dumps(check.as_json())


def test_other_tokens_are_not_compared(flagship):
    check = judge(flagship, figures(8.0), figures(8.0, tokens=601))
    assert check.problem == "the tokenizers differ: 600 tokens in the base, 601 here"


class Reader:
    """A client whose every token but a window's first has the probability 1 / e."""

    def __init__(self):
        self.asked = []

    def tokenize(self, text):
        return list(range(len(text)))

    def completion(self, prompts, **options):
        assert options == {"max_tokens": 1, "prompt_logprobs": 0}
        self.asked += prompts
        scored = [
            [None, *({str(token): {"logprob": -1.0}} for token in prompt[1:])] for prompt in prompts
        ]
        choices = [{"index": n, "prompt_logprobs": one} for n, one in enumerate(scored)]
        return {"choices": choices[::-1]}  # in whatever order


@pytest.mark.parametrize(
    ("length", "most", "windows", "tokens", "scored"),
    [(200, None, 34, 200, 166), (199, None, 34, 199, 165), (200, 3, 3, 18, 15), (0, None, 0, 0, 0)],
)
def test_every_window_is_read_once(length, most, windows, tokens, scored):
    """A last window of one token has nothing to score, but counts."""
    reader = Reader()
    text = Text(name="t", content="x" * length, window=6, max_windows=most)
    found = perplexity.score(reader, text)
    assert (windows, tokens, scored) == (found.windows, found.tokens, found.scored)
    assert [token for window in reader.asked for token in window] == list(
        range(tokens - tokens % 6 if tokens % 6 == 1 else tokens)
    )
    assert math.isnan(found.value) if scored == 0 else found.mean_nll == 1.0


def test_a_text_without_tokens_fails(flagship):
    text = Text(name="t", content="", window=6)
    base = figures(8.0, windows=0, tokens=0)
    check = verification.check(
        "perplexity",
        flagship,
        lambda: perplexity.compare(Reader(), base=base, text=text, args={"base": {}, "result": {}}),
    )
    assert check.problem == "no finite number: base 8.0, result nan"
