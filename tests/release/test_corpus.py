"""The corpus of bad releases: none passes, and each says why in one line."""

import pytest
from assets.verify.table import every

from assay.release import verify
from forge.core.errors import ReleaseError

CASES = every()


def test_the_good_release_passes(good, demands):
    said = []
    verify.verify(good.folder, demands, said.append)
    assert [line.split()[0] for line in said] == [str(n) for n in range(1, len(verify.STEPS) + 1)]
    assert all(line.split()[1] == "pass" for line in said)


def test_corpus_is_large_enough():
    assert len(CASES) >= 40


@pytest.mark.parametrize("name", CASES)
def test_case_fails_and_says_why(name, bench, demands):
    spoil, reason = CASES[name]
    spoil(bench)
    said = []
    with pytest.raises(ReleaseError) as caught:
        verify.verify(bench.folder, demands, said.append)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [line.split()[1] for line in said] == ["pass"] * (len(said) - 1) + ["FAIL"]
