"""The corpus of bad releases: none passes, and each says why in one line."""

import subprocess
import sys

import pytest
from assets.verify.table import every

from assay.release import verify
from forge.core import portable
from forge.core.errors import ReleaseError

CASES = every()


def test_the_good_release_passes(good, demands):
    said = []
    verify.verify(good.folder, demands, said.append)
    assert [line.split()[0] for line in said] == [str(n) for n in range(1, len(verify.STEPS) + 1)]
    assert all(line.split()[1] == "pass" for line in said)


def test_corpus_is_large_enough():
    """The README and docs/verification.md say so."""
    assert len(CASES) > 700


@pytest.mark.parametrize(
    "name",
    [
        "hint_of_control_characters",
        "resigned_strange_input",
        "resigned_report_of_a_variant_of_control_characters",
        "name_with_escape",
    ],
)
def test_no_character_of_a_stranger_reaches_the_terminal(name, bench):
    """One that it would act on is printed as an escape, in the line of a step and in the error."""
    spoil, _ = CASES[name]
    spoil(bench)
    done = subprocess.run(
        [sys.executable, "-m", "assay", "verify-release", bench.folder, "--rehearsal",
         "--key", bench.key.with_name("key.pub")],
        capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip
    assert done.returncode == 41
    for printed in (done.stdout, done.stderr):
        assert "\\x1b[2J" in printed
        assert portable.shown(printed, keep="\n") == printed


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
