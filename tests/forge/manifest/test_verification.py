"""No check passes by default."""

from forge.manifest.verification import Check, Report, passed, report

GOOD = Check(name="x", passed=True, detail="fine", measured={"n": 1})
BAD = Check(name="y", passed=False, detail="bad", measured={"n": 1})


def test_a_check_that_measured_nothing_has_failed():
    check = Check(name="x", passed=True, detail="fine", measured={})
    assert not check.passed
    assert check.detail == "measured nothing (fine)"


def test_a_check_keeps_its_verdict():
    assert GOOD.passed
    assert not BAD.passed


def test_nor_does_it_pass_when_it_is_read():
    data = GOOD.encoded().replace(b'{"n":1}', b"{}")
    assert not Check.parse(data).passed
    made = report("v", "all", [GOOD]).encoded().replace(b'{"n":1}', b"{}")
    assert not Report.parse(made).checks[0].passed


def test_a_report_passes_if_there_are_checks_and_all_passed():
    assert report("v", "all", [GOOD]).passed
    assert not report("v", "all", [GOOD, BAD]).passed
    assert not report("v", "none", []).passed
    assert not passed([])


def test_what_was_measured():
    two = Check(name="z", passed=True, detail="", measured={"n": 2, "m": 3})
    made = report("v", "all", [GOOD, two])
    assert made.measured("n") == {"n": 1}
    assert made.measured("n", "m") == {"n": 2, "m": 3}
    assert made.measured("k") is None
    assert Report.parse(made.encoded()) == made
