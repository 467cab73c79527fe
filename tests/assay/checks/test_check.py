"""No check passes by default."""

from assay.checks.check import Check


def test_a_check_that_measured_nothing_has_failed():
    check = Check(name="x", passed=True, detail="fine", measured={})
    assert not check.passed
    assert check.detail == "measured nothing (fine)"


def test_a_check_keeps_its_verdict():
    assert Check(name="x", passed=True, detail="fine", measured={"n": 1}).passed
    assert not Check(name="x", passed=False, detail="bad", measured={"n": 1}).passed
