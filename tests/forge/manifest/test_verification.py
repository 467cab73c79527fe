"""No check passes by default, and no verdict is believed: each is drawn from the figures again."""

import json

import pytest
import reports
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from forge.core import checkout
from forge.core.model import mistake
from forge.manifest import probe_figures as probed
from forge.manifest import served_figures as served
from forge.manifest import stored_figures as stored
from forge.manifest import verification
from forge.manifest.verification import KINDS, Report, UnmeasuredError, refutation
from forge.recipes import recipe

VARIANTS = recipe.names()
SIZE = st.integers(0, 1 << 40)
REAL = st.floats(allow_nan=True, allow_infinity=True)
UNKNOWN = "Extra inputs are not permitted"


def made(variant="qwen36-27b-vlm-mtp", level="all"):
    """The recipe of a variant, and the report of a build of it that passed."""
    wanted = recipe.find(variant)
    return wanted, reports.report(wanted, level)


def forged(change, variant="qwen36-27b-vlm-mtp", level="all", *, rehearsal=True):
    """Why a report is refused that somebody changed; as it is read from its bytes."""
    wanted, honest = made(variant, level)
    data = json.loads(honest.encoded())
    change(data)
    try:
        return refutation(Report.parse(json.dumps(data).encode()), wanted, rehearsal=rehearsal)
    except ValidationError as error:
        return mistake(error)


@pytest.mark.parametrize("level", ["structure", "all"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_an_honest_report_passes(variant, level):
    wanted, honest = made(variant, level)
    assert honest.passed
    assert refutation(honest, wanted, rehearsal=True) is None
    assert Report.parse(honest.encoded()) == honest


@pytest.mark.parametrize("level", ["structure", "all"])
@pytest.mark.parametrize("variant", ["qwen36-27b-vlm-mtp", "qwen36-27b-nvfp4"])
def test_every_check_is_needed(variant, level):
    wanted = recipe.find(variant)
    names = verification.expected(wanted, level)
    for left_out in names:
        some = reports.checks(wanted, [name for name in names if name != left_out])
        report = verification.report(wanted, level, some)
        assert not report.passed
        reason = refutation(report, wanted, rehearsal=True)
        assert reason == f"{left_out} is missing, a check of the level {level!r}"


def test_the_list_is_the_recipes():
    """Head, vision tower and level decide which checks there are."""
    flagship, plain, text = map(
        recipe.find, ("qwen36-27b-vlm-mtp", "qwen36-27b-nvfp4", "qwen36-27b-text-mtp")
    )
    full = set(verification.expected(flagship, "all"))
    assert set(KINDS) - full == {"smoke.image_refused"}
    head = {"smoke.mtp", "smoke.greedy_identical", "smoke.mtp_speed"}
    assert full - set(verification.expected(plain, "all")) == head
    assert full ^ set(verification.expected(text, "all")) == {"smoke.image", "smoke.image_refused"}
    assert verification.expected(flagship, "none") == ()
    assert set(verification.expected(flagship, "structure")) == {
        name for name in full if name.startswith("structure.")
    }


def test_the_page_has_every_check():
    page = (checkout.ROOT / "docs/report.md").read_text(encoding="utf-8")
    listed = [line.split("`")[1] for line in page.splitlines() if line.startswith("| `")]
    assert listed == list(KINDS)


def test_nothing_measured_is_a_failure(flagship):
    def nothing():
        raise UnmeasuredError("the server refused")

    check = verification.check("smoke.health", flagship, nothing)
    assert (check.passed, check.problem, check.measured) == (False, "the server refused", None)
    empty = verification.check(
        "structure.scales", flagship, lambda: stored.Scales(scales=0, wrong=())
    )
    assert not empty.passed
    assert "scales: Input should be greater than or equal to 1" in empty.problem
    assert not verification.passed([])
    assert not verification.report(flagship, "none", []).passed


def test_a_report_that_failed_can_be_written(flagship):
    failed = verification.failed("structure.index", "there is no index")
    report = verification.report(flagship, "all", [failed])
    assert not report.passed
    assert Report.parse(report.encoded()) == report


def check(report, name):
    return next(one for one in report["checks"] if one["name"] == name)


def measured(name, **figures):
    """A forgery of the figures of a check; it says that it passed all the same."""
    return lambda report: check(report, name)["measured"].update(figures)


def drop(name, key):
    return lambda report: check(report, name)["measured"].pop(key)


def said(script, **answers):
    return lambda report: check(report, "smoke.scripts")["measured"]["said"][script].update(answers)


def streamed(**answer):
    """The same change of all answers."""

    def change(report):
        for one in check(report, "smoke.streaming")["measured"]["answers"]:
            one.update(answer)

    return change


def doubled(report):
    report["checks"].insert(1, report["checks"][0])


def of_another_level(report):
    report["level"] = "structure"


def of_another_kind(report):
    check(report, "smoke.image")["name"] = "smoke.image_refused"


def reordered(report):
    report["checks"].reverse()


def renamed(report):
    report["checks"][0]["name"] = "structure.luck"


def skipped(report):
    report["checks"][0] |= {"skipped": True}


def unmeasured(report):
    check(report, "structure.mtp")["measured"] = None


def not_passed(report):
    check(report, "structure.mtp")["passed"] = False


def with_a_problem(report):
    check(report, "structure.mtp")["problem"] = "none"


def the_whole_did_not_pass(report):
    report["passed"] = False


def nothing_at_all(report):
    report["checks"] = []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (doubled, "structure.index stands twice"),
        (of_another_level, "smoke.profiles is no check of this variant at the level 'structure'"),
        (of_another_kind, "checks.24.smoke.image_refused.measured.status: Field required"),
        (reordered, "the checks are in another order"),
        (renamed, "does not match any of the expected tags"),
        (skipped, f"checks.0.structure.index.skipped: {UNKNOWN}"),
        (unmeasured, "a check that measured nothing has failed"),
        (not_passed, "a check has failed exactly if it has a problem"),
        (with_a_problem, "a check has failed exactly if it has a problem"),
        (the_whole_did_not_pass, "the assay did not pass"),
        (nothing_at_all, "structure.index is missing"),
        # Thresholds are the recipe's.
        (measured("perplexity", max_ratio=1000), f"max_ratio: {UNKNOWN}"),
        (measured("smoke.mtp", floor=[]), f"floor: {UNKNOWN}"),
        (measured("smoke.image", min_logprob_shift=0.0), f"min_logprob_shift: {UNKNOWN}"),
        (measured("smoke.greedy_identical", tolerance=9.0), f"tolerance: {UNKNOWN}"),
        # Figures that do not pass, whatever is said of them.
        (measured("structure.index", declared=1), "the index declares 1 bytes"),
        (measured("structure.mtp", stored=0, equal=0, bytes=0), "0 of 15 tensors equal"),
        (measured("structure.mtp", tensors=1, stored=1, equal=1), "1 tensors, the recipe has 15"),
        (measured("structure.mtp", equal=14), "14 of 15 tensors equal the source"),
        (measured("structure.config", kv_cache="fp8"), "the KV cache is fp8, the recipe says None"),
        (measured("structure.digests", wrong=["config.json"]), "are not what was written"),
        (measured("structure.sources", wrong=["a"]), "changed since they were fetched: a"),
        (measured("structure.quantized", wrong=["a"]), "with a wrong dtype or shape: a"),
        (measured("structure.scales", wrong=["a"]), "or subnormal: a"),
        (measured("structure.siblings", wrong=["a"]), "global scales differ"),
        (measured("structure.parallel", devices={"1": ["a"]}), "divided among 1 devices: a"),
        (measured("structure.parallel", devices={"2": []}), "not looked whether 1 devices"),
        (measured("structure.ignore", wrong=["a"]), "mistakes in the lists"),
        (measured("structure.ignore", readers={}), "should have at least 1 item"),
        (measured("structure.ignore", readers={"x": {"layers": 1}}), "is named exactly if there"),
        (measured("structure.files", wrong=["code a.py"]), "code a.py"),
        (
            measured("structure.weights", formats={"nvfp4": {
                "linears": 30, "module": "a.b", "relative": 0.21}}),
            "a.b: is off by 0.21, more than rounding to nvfp4 explains (0.2",
        ),
        (
            measured("structure.weights", formats={"nvfp4": {
                "linears": 30, "module": "a.b", "relative": None}}),
            "a.b: is off infinitely",
        ),
        (
            measured("structure.weights", formats={"fp8": {
                "linears": 30, "module": "a.b", "relative": 0.01}}),
            "of fp8, the recipe has nvfp4",
        ),
        (measured("smoke.profiles", profiles={}), "profiles: Dictionary should have at least 1"),
        (
            measured("smoke.profiles", profiles={"default": {"args": {}, "env": {}}}),
            "the profile 'default' is not the recipe's",
        ),
        (measured("smoke.tool_parser", parser="hermes"), "the parser is 'hermes'"),
        (measured("smoke.tool_parser", read=[]), "qwen3_coder read []"),
        (
            measured("smoke.health", args={"quantization": "none"}),
            "--enable-auto-tool-choice is None, published True",
        ),
        (measured("smoke.health", env={"A": "1"}), "A is '1', published None"),
        (measured("smoke.chat.thinking_off", reasoning_characters=4), "4 characters of reasoning"),
        (measured("smoke.chat.thinking_on", content_characters=0), "it is empty"),
        (measured("smoke.tool_call", calls=[]), "not one call of get_weather"),
        (
            measured("smoke.tool_call", calls=[{"name": "get_weather", "arguments": "{}"}]),
            "break the schema",
        ),
        (measured("smoke.image", image_tokens=[0, 9]), "a picture is 0 tokens"),
        (measured("smoke.image", answers=["Red.", "Blue.", ""]), "a picture got no answer"),
        (measured("smoke.image", logprob_shift=0.04), "moves the answer by 0.04, wanted 0.05"),
        (said("Hangul", forced="하늘이 맑\ufffd\ufffd"), "하늘이 맑고 바람이 분다' came back as"),
        (said("emoji", forced=""), "emoji: "),
        (measured("smoke.scripts", said={}), "the scripts are , not Hangul, Han"),
        (measured("smoke.stop", turn_end=66), "lacks token 66, which ends an answer"),
        (measured("smoke.stop", ordinary=[63]), "token 63 ends texts and is no special token"),
        (measured("smoke.stop", ordinary=[7]), "an ordinary token that ends nothing"),
        (measured("smoke.stop", ended=[]), "ended: Tuple should have at least 1 item"),
        (
            measured("smoke.stop", ended=[{"token": 65, "finish_reason": "length", "tokens": 8}]),
            "token 65 of generation_config.json did not end a text: 'length' after 8 tokens",
        ),
        (
            measured("smoke.stop", ended=[{"token": 65, "finish_reason": "stop", "tokens": 2}]),
            "did not end a text: 'stop' after 2 tokens",
        ),
        (
            streamed(streamed="Hi\ufffd\ufffd", whole="Hi🙂"),
            "streamed, 'Hi🙂' came as 'Hi\ufffd\ufffd', of the same tokens",
        ),
        (streamed(same_tokens=False), "no answer was streamed with the tokens that it has in one"),
        (streamed(pieces=1), "no answer was streamed with the tokens that it has in one piece"),
        (measured("smoke.streaming", answers=[]), "answers: Tuple should have at least 1 item"),
        (
            measured("smoke.tool_nested", demanded=[{"name": "place_order", "arguments": '{"a'}]),
            "no call of place_order that can be read: 'place_order' '{\"a'",
        ),
        (
            measured("smoke.tool_nested", chosen=[{"name": "get_time", "arguments": "{}"}]),
            "no call of place_order that can be read: 'get_time' '{}'",
        ),
        (measured("smoke.tool_parser", read=[{"name": "get_weather", "arguments": {
            "city": "Paris"}}]), "from the template's own spelling"),
        (measured("smoke.image", image_tokens=[64, 64]), "64 tokens, a larger one 64"),
        (measured("smoke.logprobs", finite=149), "1 of 150 positions are not finite"),
        (measured("smoke.logprobs", finite=151), "more positions than there are"),
        (measured("smoke.logprobs", flat=150), "at 150 of 150 positions all tokens are equally"),
        (measured("smoke.logprobs", positions=0, finite=0), "greater than or equal to 1"),
        (measured("smoke.logprobs", candidates=1), "one candidate a position says nothing"),
        (measured("smoke.logprobs", lowest=0.5), "less than or equal to 0"),
        (measured("smoke.long_prompt", shift=0.7), "by 0.7000 on average, more than 0.6000, noise"),
        (measured("smoke.long_prompt", shift=9.0, noise=9.0), "more than 1.0000"),
        (measured("smoke.long_prompt", chunk=4096), "the border of a chunk is not within"),
        (measured("smoke.long_prompt", prompt=2049), "the border of a chunk is not within"),
        (
            measured("smoke.concurrent", identical=9, tokens_before_difference=600, differences=[
                {"prompt": 3, "position": 5, "gap": 0.3}]),
            "9 of 10 texts identical; 1 part at a gap wider than 0.2500",
        ),
        (
            measured("smoke.concurrent", prompts=1, identical=1),
            "one request is not at once with others",
        ),
        (measured("smoke.mtp_speed", speedup=2.0), "the speedup is not that of the times"),
        (
            measured("smoke.mtp_speed", without={"tokens": 320, "seconds": 0.0}),
            "without.seconds: Input should be greater than 0",
        ),
        (measured("smoke.mtp", drafts=199, drafted=199, accepted=[199], acceptance=[1.0]),
         "199 tokens drafted, 200 needed to judge"),
        (measured("smoke.mtp", accepted=[239], acceptance=[0.5975]), "0.5975 were accepted, below"),
        (measured("smoke.mtp", accepted=[], acceptance=[]), "0 positions, the recipe has 1"),
        (
            measured("smoke.mtp", accepted=[320, 310], acceptance=[0.8, 0.775], drafted=800),
            "2 positions, the recipe has 1",
        ),
        (
            measured("smoke.greedy_identical", differences=[
                {"prompt": 3, "position": 5, "gap": 0.3}]),
            "1 part at a gap wider than 0.2500",
        ),
        (
            measured("smoke.greedy_identical", own_noise=1e300, differences=[
                {"prompt": 3, "position": 5, "gap": 1.1}]),
            "1 part at a gap wider than 1.0000",
        ),
        (measured("perplexity", result=9.0, ratio=9.0 / 8), "perplexity is 1.1250 times"),
        # Figures that contradict each other, or are none.
        (measured("structure.names", stored=192), "differ by more than what is missing"),
        (measured("structure.names", missing=["a"]), "differ by more than what is missing"),
        (measured("structure.mtp", equal=16), "more are equal than are stored"),
        (measured("structure.mtp", bytes=0), "tensors without bytes"),
        (measured("structure.kept", equal=0), "are not all"),
        (measured("structure.kept", equal=57, wrong=["a"]), "57 of 58 tensors equal the source"),
        (measured("structure.quantized", tensors=30), "a quantized linear has several tensors"),
        (measured("structure.siblings", fused=0, wrong=["a"]), "more differ than there are"),
        (measured("smoke.mtp", acceptance=[7.5]), "less than or equal to 1"),
        (measured("smoke.mtp", acceptance=[0.81], accepted=[1]), "the rates are not those"),
        (measured("smoke.mtp", accepted=[401], acceptance=[1.0]), "are accepted at a position"),
        (measured("smoke.mtp", drafted=1), "a draft has a token at least"),
        (measured("smoke.mtp", drafts=-1), "drafts: Input should be greater than or equal to 0"),
        (measured("smoke.mtp", drafts=True), "drafts: Input should be a valid integer"),
        (measured("smoke.mtp", drafts=400.0), "valid integer"),
        (measured("smoke.greedy_identical", identical=10), "are not all, or one stands twice"),
        (measured("smoke.greedy_identical", tokens_before_difference=641), "after their end"),
        (
            measured("smoke.greedy_identical", identical=10, differences=[]),
            "identical texts agree in all tokens",
        ),
        (
            measured("smoke.greedy_identical", differences=[
                {"prompt": 10, "position": 5, "gap": 0.1}]),
            "a text that was not written",
        ),
        (
            measured("smoke.greedy_identical", differences=[
                {"prompt": 3, "position": 5, "gap": -9.0}]),
            "gap: Input should be greater than or equal to 0",
        ),
        (measured("perplexity", ratio=1.0), "the ratio is not that of result and base"),
        (measured("perplexity", base=0.0), "base: Input should be greater than or equal to 1"),
        (measured("perplexity", base=10**400), "base: "),
        (measured("perplexity", scored=1), "every token but the first of each window"),
        (measured("perplexity", windows=400, tokens=400), "400 tokens are not 400 windows of 512"),
        (measured("perplexity", text=7), "text: Input should be a valid string"),
        (drop("perplexity", "base"), "base: Field required"),
        (drop("smoke.mtp", "drafts"), "drafts: Field required"),
        (drop("structure.mtp", "equal"), "equal: Field required"),
        # Figures of two checks.
        (
            lambda report: [
                measured("structure.names", expected=9, stored=9)(report),
            ],
            "its checks disagree on how many tensors are stored: 193 and 9",
        ),
        (measured("structure.digests", tensors=1), "tensors are stored: 193 and 1"),
        (measured("structure.kept", tensors=1, equal=1), "of the head, kept or of quantized"),
        (measured("structure.ignore", quantized=1), "linears are quantized: 30 and 1"),
        (
            measured("structure.weights", formats={"nvfp4": {
                "linears": 1, "module": "a.b", "relative": 0.1}}),
            "linears are quantized: 30 and 1",
        ),
        (measured("structure.kept", bytes=9000), "its checks disagree on bytes"),
    ],
)  # fmt: skip
def test_forged_reports(change, reason):
    assert reason in forged(change)


@pytest.mark.parametrize(
    ("readers", "reason"),
    [
        ({"sglang": {"layers": 2, "first": "a.b"}}, "sglang takes 2 layers for something else"),
        ({"transformers": {"layers": 0}}, "it was not looked how sglang reads the lists"),
    ],
)
def test_readers_that_the_recipe_promises(readers, reason):
    """Only some recipes do; the flagship is for vLLM alone."""
    change = measured("structure.ignore", readers=readers)
    assert reason in forged(change, "qwen36-27b-nvfp4")
    assert forged(change) is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (said("Han", free="山高"), "5 of 6 texts were repeated, wanted 6"),
        (said("Han", free="山高月小水落石出\ufffd"), "Han: an answer is no UTF-8"),
        (measured("smoke.stop", finish_reason="length"), "did not end by itself: 'length'"),
        (measured("smoke.tool_nested", chosen=[]), "not one call of place_order: []"),
        (measured("smoke.tool_nested", demanded=[]), "not one call of place_order: []"),
        (
            measured(
                "smoke.tool_nested",
                demanded=[
                    {"name": "place_order", "arguments": '{"city": "Paris", "items": "[{}]"}'}
                ],
            ),
            "break the schema",
        ),
    ],
)
def test_what_a_model_of_full_size_must_show(change, reason):
    """A stand-in cannot, so a rehearsal reports it; a real build fails by it."""
    assert forged(change) is None
    assert reason in forged(change, rehearsal=False)


def test_a_gain_that_the_recipe_demands():
    wanted, honest = made()
    for least, passed in ((1.25, True), (1.26, False)):
        full_size = wanted.gates.full_size.model_copy(update={"min_mtp_speedup": least})
        gates = wanted.gates.model_copy(update={"full_size": full_size})
        demanding = wanted.model_copy(update={"gates": gates})
        pace = honest.figures(probed.Pace)
        assert (pace.problem(demanding) is None) is passed
        assert pace.problem(demanding.judging(rehearsal=True)) is None


@pytest.mark.parametrize(("windows", "rehearsal"), [(15, True), (16, True), (399, False)])
def test_windows_that_are_too_few(windows, rehearsal):
    """A rehearsal scores a part of a text, a real build all of it."""
    settings = {"window": 512, "max_windows": None, "base": {}, "result": {}}
    told = forged(
        measured(
            "perplexity", settings=settings, windows=windows, tokens=512 * windows,
            scored=511 * windows,
        ),
        rehearsal=rehearsal,
    )  # fmt: skip
    if windows == 16:
        assert told is None
    else:
        least = 16 if rehearsal else 400
        assert f"perplexity did not pass: {windows} windows, {least} needed to judge" in told


def test_windows_of_another_size_than_the_recipes():
    settings = {"window": 2, "max_windows": None, "base": {}, "result": {}}
    change = measured("perplexity", settings=settings, windows=4, tokens=8, scored=4)
    assert "windows of 2 tokens, the recipe has 512" in forged(change)


def test_a_real_build_scores_the_whole_text():
    wanted, honest = made()
    reason = refutation(honest, wanted, rehearsal=False)
    assert reason == "perplexity: of 400 windows alone, and this is no rehearsal"


def test_the_report_of_another_variant_has_other_checks():
    honest = reports.report(recipe.find("qwen36-27b-vlm-mtp"))
    reason = refutation(honest, recipe.find("qwen36-27b-nvfp4"), rehearsal=True)
    assert reason == "smoke.mtp is no check of this variant at the level 'all'"


@pytest.mark.parametrize("text", [b"NaN", b"Infinity", b"1e400", b"1" * 400, b"null", b'"8.0"'])
def test_perplexities_that_are_no_number(text):
    """10**400 among them, which is infinite as soon as it is a float."""
    _, honest = made()
    data = honest.encoded()
    assert b'"base":8.0,' in data
    with pytest.raises(ValueError, match=r"NaN|Infinity|inf|JSON|number|greater|finite"):
        Report.parse(data.replace(b'"base":8.0,', b'"base":%s,' % text, 1))


@given(drafts=SIZE, drafted=SIZE, accepted=st.lists(SIZE, max_size=4))
def test_drafts_that_pass_are_possible_and_enough(drafts, drafted, accepted):
    """Whatever an engine counts: no figures, no verdict, or one that the recipe's words explain."""
    wanted = recipe.find("qwen36-27b-text-mtp")
    accepted = tuple(accepted)
    one = verification.check(
        "smoke.mtp",
        wanted,
        lambda: served.Drafts(
            drafts=drafts, drafted=drafted, accepted=accepted,
            acceptance=served.rates(drafts, accepted),
        ),
    )  # fmt: skip
    pairs = zip(accepted, wanted.serve.acceptance_floor, strict=False)
    good = (
        len(accepted) == 3
        and drafts <= drafted <= 3 * drafts
        and sum(accepted) <= drafted
        and drafts >= accepted[0] >= accepted[1] >= accepted[2]
        and drafted >= 200
        and all(drafts and rate / drafts >= floor for rate, floor in pairs)
    )
    assert one.passed is good


@given(
    base=REAL,
    result=REAL,
    tokens=st.integers(512 * 397, 512 * 403),
    windows=st.integers(398, 403),
)
def test_perplexities_that_pass_are_finite_below_the_limit_and_of_the_whole_text(
    base, result, tokens, windows
):
    wanted = recipe.find("qwen36-27b-vlm-mtp")

    def figures():
        settings = served.Settings(window=512, max_windows=None, base={}, result={})
        return served.Perplexity(
            text="t", settings=settings, windows=windows, tokens=tokens, scored=tokens - windows,
            base=base, result=result, ratio=result / base if base else 0.0,
            seconds=served.Seconds(base=1.0, result=1.0),
        )  # fmt: skip

    one = verification.check("perplexity", wanted, figures)
    whole = windows > 0 and 512 * (windows - 1) < tokens <= 512 * windows and tokens > windows
    finite = 1 <= base < float("inf") and 1 <= result < float("inf")
    assert one.passed is (whole and finite and result / base <= 1.1 and windows >= 400)


@given(noise=REAL, gaps=st.lists(st.none() | REAL, max_size=4), prompts=st.integers(0, 12))
def test_texts_that_pass_part_at_ties(noise, gaps, prompts):
    wanted = recipe.find("qwen36-27b-vlm-mtp")

    def figures():
        return served.Greedy(
            prompts=prompts, identical=prompts - len(gaps), tokens=640,
            tokens_before_difference=640 - len(gaps), own_noise=noise,
            differences=tuple(
                served.Difference(prompt=n, position=1, gap=gap) for n, gap in enumerate(gaps)
            ),
        )  # fmt: skip

    one = verification.check("smoke.greedy_identical", wanted, figures)
    good = prompts > 0 and len(gaps) <= prompts and 0 <= noise < float("inf")
    limit = min(max(2 * noise, 0.25), 1.0) if good else 0
    ties = all(gap is not None and 0 <= gap <= limit for gap in gaps)
    assert one.passed is (good and ties and prompts >= 10)


@given(relative=st.none() | REAL, linears=st.integers(-1, 3))
def test_weights_that_pass_are_within_rounding(relative, linears):
    def figures():
        worst = stored.Worst(linears=linears, module="a", relative=relative)
        return stored.Weights(formats={"nvfp4": worst}, zeros=())

    one = verification.check("structure.weights", recipe.find("qwen36-27b-vlm-mtp"), figures)
    good = linears > 0 and relative is not None and 0 <= relative <= 0.2
    assert one.passed is good


@given(st.sampled_from(sorted(KINDS)), st.data())
def test_no_random_figure_makes_a_report_pass_silently(name, data):
    """One figure of a passing report becomes another number: it is refused, or it still passes
    by the rules of its check alone; it never ends in anything but a reason."""
    variant = "qwen36-27b-text-mtp" if name == "smoke.image_refused" else "qwen36-27b-vlm-mtp"

    def change(report):
        figures = check(report, name)["measured"]
        numbers = sorted(key for key, value in figures.items() if type(value) in {int, float})
        if numbers:
            key = data.draw(st.sampled_from(numbers))
            figures[key] = data.draw(
                st.integers(-5, 1 << 70) | st.floats(allow_nan=False, allow_infinity=False)
            )

    reason = forged(change, variant)
    assert reason is None or "\n" not in reason
