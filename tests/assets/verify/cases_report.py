"""Reports of the assay that contradict themselves, the recipe, or the release; signed.

The first table lies about a build whose structure was verified, the second about one that an engine
served as well. `tests/forge/manifest/test_verification.py` has more of them, without a release.
"""

import json

from assets.verify.bench import MANIFEST, VERIFICATION, definition, record
from assets.verify.table import add, case, reported

from forge.manifest import names, own_engine, verification

UNKNOWN = "Extra inputs are not permitted"


def checked(report, name):
    return next(one for one in report["checks"] if one["name"] == name)


def figures(name, **changed):
    """A change of what a check has measured; it passed all the same."""
    return lambda report: checked(report, name)["measured"].update(changed)


def without(name, key):
    return lambda report: checked(report, name)["measured"].pop(key)


def structure(name, change, reason):
    reported(reason)(named(f"resigned_report_{name}", change))


def served(name, change, reason):
    add(f"resigned_assay_{name}", lambda bench: bench.assayed(change), reason)


def named(name, change):
    def function(report):
        change(report)

    function.__name__ = name
    return function


def drop(name):
    return lambda report: report["checks"].remove(checked(report, name))


def double(name):
    return lambda report: report["checks"].append(checked(report, name))


def swap(report):
    report["checks"][0], report["checks"][1] = report["checks"][1], report["checks"][0]


def engine_check(report):
    measured = {"tokens": 5, "content_characters": 9, "reasoning_characters": 0}
    measured["finish_reason"] = None
    report["checks"].append(
        {"name": "smoke.chat.thinking_on", "passed": True, "measured": measured}
    )


ZERO_OF_15 = figures("structure.mtp", stored=0, equal=0, bytes=0)
for name, change, reason in (
    ("without_the_head", drop("structure.mtp"), "structure.mtp is missing, a check of the level"),
    ("without_the_weights", drop("structure.weights"), "structure.weights is missing"),
    ("without_the_last_check", drop("structure.files"), "structure.files is missing"),
    ("check_twice", double("structure.mtp"), "structure.mtp stands twice"),
    ("in_another_order", swap, "the checks are in another order"),
    (
        "check_of_another_level",
        engine_check,
        "smoke.chat.thinking_on is no check of this variant at the level 'structure'",
    ),
    ("check_skipped", lambda r: r["checks"][2].update(skipped=True), f"skipped: {UNKNOWN}"),
    ("check_renamed", lambda r: r["checks"][2].update(name="a"), "any of the expected tags"),
    (
        "check_with_the_figures_of_another",
        lambda r: checked(r, "structure.mtp").update(
            measured=checked(r, "structure.scales")["measured"]
        ),
        "structure.mtp.measured.tensors: Field required",
    ),
    (
        "failed_and_passed",
        lambda r: checked(r, "structure.mtp").update(problem="14 of 15"),
        "a check has failed exactly if it has a problem",
    ),
    (
        "failed",
        lambda r: [
            checked(r, "structure.mtp").update(passed=False, problem="14 of 15"),
            r.update(passed=False),
        ],
        "structure.mtp did not pass: 14 of 15",
    ),
    (
        "failed_but_passed_in_all",
        lambda r: checked(r, "structure.mtp").update(passed=False, problem="14 of 15"),
        "passed, though a check has failed",
    ),
    ("not_passed_in_all", lambda r: r.update(passed=False), "the assay did not pass"),
    (
        "measured_nothing",
        lambda r: checked(r, "structure.mtp").update(measured=None),
        "a check that measured nothing has failed",
    ),
    (
        "measured_no_figures",
        lambda r: checked(r, "structure.mtp").update(measured={}),
        "structure.mtp.measured.tensors: Field required",
    ),
    ("without_checks", lambda r: r.update(checks=[]), "structure.index is missing"),
    ("0_of_15_equal", ZERO_OF_15, "0 of 15 tensors equal the source byte for byte"),
    ("14_of_15_equal", figures("structure.mtp", equal=14), "14 of 15 tensors equal"),
    ("16_of_15_equal", figures("structure.mtp", equal=16), "more are equal than are stored"),
    (
        "head_of_one_tensor",
        figures("structure.mtp", tensors=1, stored=1, equal=1),
        "structure.mtp did not pass: 1 tensors, the recipe has 15",
    ),
    ("head_of_no_bytes", figures("structure.mtp", bytes=0), "tensors without bytes"),
    ("without_equal", without("structure.mtp", "equal"), "equal: Field required"),
    ("negative_count", figures("structure.kept", equal=-1), "greater than or equal to 0"),
    ("count_that_is_true", figures("structure.kept", equal=True), "should be a valid integer"),
    ("count_with_a_fraction", figures("structure.kept", equal=1.5), "valid integer"),
    ("count_as_text", figures("structure.kept", equal="58"), "valid integer"),
    ("none_kept", figures("structure.kept", tensors=0, equal=0), "greater than or equal to 1"),
    ("index_of_another_size", figures("structure.index", declared=1), "the index declares 1"),
    ("file_not_what_was_written", figures("structure.digests", wrong=["a"]), "what was written: a"),
    ("wrong_and_passed", figures("structure.files", wrong=["code x.py"]), "code x.py"),
    ("tensor_missing", figures("structure.names", missing=["a"]), "by more than what is missing"),
    ("scales_none", figures("structure.scales", scales=0), "greater than or equal to 1"),
    ("cache_of_another_dtype", figures("structure.config", kv_cache="fp8"), "the KV cache is fp8"),
    (
        "error_beyond_rounding",
        lambda r: checked(r, "structure.weights")["measured"]["formats"]["nvfp4"].update(
            relative=0.5
        ),
        "is off by 0.5, more than rounding to nvfp4 explains (0.2",
    ),
    (
        "error_infinite",
        lambda r: checked(r, "structure.weights")["measured"]["formats"]["nvfp4"].update(
            relative=None
        ),
        "is off infinitely",
    ),
    (
        "error_with_a_limit_of_its_own",
        lambda r: checked(r, "structure.weights")["measured"]["formats"]["nvfp4"].update(limit=1.0),
        f"limit: {UNKNOWN}",
    ),
    (
        "error_of_another_format",
        lambda r: checked(r, "structure.weights")["measured"].update(
            formats={"fp8": checked(r, "structure.weights")["measured"]["formats"]["nvfp4"]}
        ),
        "of fp8, the recipe has nvfp4",
    ),
    (
        "counts_of_two_checks",
        figures("structure.names", expected=3, stored=3),
        "its checks disagree on how many tensors are stored",
    ),
    (
        "linears_of_two_checks",
        figures("structure.ignore", quantized=3),
        "its checks disagree on how many linears are quantized",
    ),
    ("bytes_of_two_checks", figures("structure.kept", bytes=1 << 60), "disagree on bytes"),
    ("level_of_its_own", lambda r: r.update(level="all"), "the manifest says 'structure'"),
    ("level_unknown", lambda r: r.update(level="full"), "level: Input should be 'none'"),
):
    structure(name, change, reason)


# Figures that agree with each other, and not with the release.
def worst(**changed):
    def change(report):
        formats = checked(report, "structure.weights")["measured"]["formats"]
        formats["nvfp4"].update(changed)

    return change


def both(*changes):
    return lambda report: [change(report) for change in changes]


GIVES = "the release gives"
for name, change, reason in (
    (
        "of_tensors_that_there_are_not",
        both(
            figures("structure.index", tensors=9),
            figures("structure.names", expected=9, stored=9),
            figures("structure.digests", tensors=9),
            figures("structure.kept", tensors=1, equal=1),
        ),
        "its checks disagree on how many tensors are of the head, kept or of quantized",
    ),
    (
        "of_more_bytes",
        figures("structure.index", bytes=1 << 40, declared=1 << 40),
        f"structure.index: bytes is 1099511627776, {GIVES}",
    ),
    ("of_removed_tensors", figures("structure.names", removed=1), f"removed is 1, {GIVES} 0"),
    ("of_fewer_files", figures("structure.digests", files=1), f"digests: files is 1, {GIVES}"),
    ("of_fewer_sources", figures("structure.sources", tensors=1), f"tensors is 1, {GIVES}"),
    ("of_a_small_head", figures("structure.mtp", bytes=1), f"structure.mtp: bytes is 1, {GIVES}"),
    ("of_few_bytes_kept", figures("structure.kept", bytes=1), f"kept: bytes is 1, {GIVES}"),
    ("of_few_scales", figures("structure.scales", scales=1), f"scales is 1, {GIVES}"),
    ("of_no_siblings", figures("structure.siblings", fused=0), f"fused is 0, {GIVES}"),
    (
        "of_any_number_of_devices",
        figures("structure.parallel", devices={str(n): [] for n in (1, 2, 4, 8, 16)}),
        "structure.parallel: devices.",
    ),
    ("of_nothing_left", figures("structure.ignore", not_quantized=0), f"quantized is 0, {GIVES}"),
    (
        "of_a_shorter_list",
        lambda r: checked(r, "structure.ignore")["measured"]["entries"].update({"config.json": 1}),
        f"entries.config.json is 1, {GIVES}",
    ),
    ("of_one_config", figures("structure.config", files=1), f"config: files is 1, {GIVES} 2"),
    ("of_files_not_compared", figures("structure.files", compared=1), f"compared is 1, {GIVES}"),
    ("of_a_smaller_error", worst(relative=0.01), f"formats.nvfp4.relative is 0.01, {GIVES} 0."),
    ("of_another_worst_linear", worst(module="x"), f'formats.nvfp4.module is "x", {GIVES}'),
    ("of_zeros", figures("structure.weights", zeros=["x"]), f'zeros.0 is "x", {GIVES} null'),
):  # fmt: skip
    structure(name, change, reason)


@case(f"structure.scales: scales is 1, {GIVES}")
def resigned_assay_of_few_scales(bench):
    """An engine's report has the structural figures as well."""
    bench.assayed(figures("structure.scales", scales=1))


RED = {"image_tokens": [16, 240], "answers": ["Red.", "Red.", "Red."], "logprob_shift": 0.0}
for name, change, reason in (
    ("without_perplexity", drop("perplexity"), "perplexity is missing, a check of the level 'all'"),
    ("without_acceptance", drop("smoke.mtp"), "smoke.mtp is missing"),
    ("without_a_picture", drop("smoke.image"), "smoke.image is missing"),
    ("perplexity_twice", double("perplexity"), "perplexity stands twice"),
    ("acceptance_of_750_percent", figures("smoke.mtp", acceptance=[7.5]), "than or equal to 1"),
    (
        "rate_that_is_not_the_counts",
        figures("smoke.mtp", drafts=350, drafted=350, accepted=[1], acceptance=[0.81]),
        "the rates are not those of the counts",
    ),
    ("acceptance_below_the_floor", figures("smoke.mtp", accepted=[200], acceptance=[0.5]),
     "at position 1, 0.5000 were accepted, below 0.6"),
    ("floor_of_its_own", figures("smoke.mtp", floor=[]), f"floor: {UNKNOWN}"),
    (
        "more_accepted_than_drafted",
        figures("smoke.mtp", accepted=[500], acceptance=[1.0]),
        "more are accepted at a position than at the one before",
    ),
    ("too_few_drafts", figures("smoke.mtp", drafts=5, drafted=5, accepted=[5], acceptance=[1.0]),
     "5 tokens drafted, 200 needed to judge"),
    ("no_position", figures("smoke.mtp", accepted=[], acceptance=[]), "0 positions"),
    ("without_drafts", without("smoke.mtp", "drafts"), "drafts: Field required"),
    ("ratio_of_its_own", figures("perplexity", max_ratio=1000), f"max_ratio: {UNKNOWN}"),
    (
        "ratio_of_500",
        figures("perplexity", result=4000.0, ratio=500.0),
        "perplexity is 500.0000 times the base's, above 1.1",
    ),
    ("ratio_that_is_not_the_quotient", figures("perplexity", ratio=1.0), "the ratio is not that"),
    ("perplexity_of_10_to_the_400", figures("perplexity", base=10**400), "measured.base"),
    ("perplexity_of_zero", figures("perplexity", base=0.0), "greater than or equal to 1"),
    ("perplexity_null", figures("perplexity", result=None), "should be a valid number"),
    ("perplexity_as_text", figures("perplexity", result="8.0"), "should be a valid number"),
    ("perplexity_without_a_base", without("perplexity", "base"), "base: Field required"),
    ("perplexity_of_one_window_of_all",
     figures("perplexity", windows=400, tokens=400, scored=1), "are not 400 windows of 512"),
    ("scored_more_than_there_is", figures("perplexity", scored=9999), "every token but the first"),
    ("second_perplexity",
     lambda r: r["checks"].append({**checked(r, "perplexity"), "name": "perplexity.2"}),
     "any of the expected tags"),
    ("texts_part_beyond_ties",
     figures("smoke.greedy_identical", differences=[{"prompt": 3, "position": 5, "gap": 0.9}]),
     "1 part at a gap wider than 0.2500"),
    ("texts_part_beyond_any_noise",
     figures("smoke.greedy_identical", own_noise=1e9,
             differences=[{"prompt": 3, "position": 5, "gap": 5.0}]),
     "1 part at a gap wider than 1.0000"),
    ("tolerance_of_its_own", figures("smoke.greedy_identical", tolerance=9.0),
     f"tolerance: {UNKNOWN}"),
    ("texts_more_than_there_are", figures("smoke.greedy_identical", identical=99), "are not all"),
    ("picture_without_effect", lambda r: checked(r, "smoke.image")["measured"].update(RED),
     "another picture moves the answer by 0.0, wanted 0.05"),
    ("picture_without_tokens", figures("smoke.image", image_tokens=[0, 9]), "picture is 0 tokens"),
    ("picture_refused",
     lambda r: checked(r, "smoke.image").update(
         name="smoke.image_refused",
         measured={"status": 400, "answer": "no image", "healthy": True}),
     "smoke.image is missing"),
    ("thinks_though_it_is_off", figures("smoke.chat.thinking_off", reasoning_characters=9),
     "9 characters of reasoning, though it is off"),
    ("silent", figures("smoke.chat.thinking_on", content_characters=0), "it is empty"),
    ("spoke_without_tokens", figures("smoke.chat.thinking_on", tokens=0), "characters without"),
    ("tool_not_called", figures("smoke.tool_call", calls=[]), "not one call of get_weather"),
    ("tool_called_with_nothing",
     figures("smoke.tool_call", calls=[{"name": "get_weather", "arguments": "{}"}]),
     "break the schema"),
    ("another_parser", figures("smoke.tool_parser", parser="hermes"), "the parser is 'hermes'"),
    ("parser_that_read_nothing", figures("smoke.tool_parser", read=[]), "qwen3_coder read []"),
    ("another_profile",
     figures("smoke.profiles", profiles={"default": {"args": {}, "env": {}}}),
     "the profile 'default' is not the recipe's"),
    ("profile_not_taken", figures("smoke.profiles", wrong=["default: unknown flag"]),
     "1 profiles are not taken: default: unknown flag"),
    ("served_otherwise", figures("smoke.health", args={}), "is None, published True"),
):  # fmt: skip
    served(name, change, reason)


OWN = {
    "engine": "vllm 0.26.0", "python": "3.12.3", "settings": {"env": {}, "serve": {}},
    "differing": {"torch": {"locked": "2.13.0", "found": "2.11.0"}},
}  # fmt: skip
served("of_a_machines_own_engine", lambda r: r.update(own_engine=OWN), own_engine.NOT_LOCKED)
structure("of_an_engine_of_nobody", lambda r: r.update(own_engine={}), "own_engine.engine: Field")
structure("whose_engine_is_null", lambda r: r.update(own_engine=None), "leave the key out")


@case("is of the level 'structure', the manifest says 'all'")
def resigned_level_of_the_manifest(bench):
    """The manifest claims an engine; the report knows of none."""

    def change(statement):
        definition(statement)["internalParameters"]["verified"] = "all"
        record(statement, "verify")["parameters"]["level"] = "all"

    bench.edit(MANIFEST, change)
    bench.admit(VERIFICATION)


# What follows from manifest and report.
CHECKS = len(verification.STRUCTURE)
TEST_RESULT, BOM = (f"provenance/{name}" for name in (names.TEST_RESULT, names.BOM))


def followed(name, path, change, reason):
    """A case that changes a document that is made of others, and signs."""

    def spoil(bench):
        bench.edit(path, change)
        bench.list_files()

    add(f"resigned_{name}", spoil, f"{path}: {reason}")


def predicate(**changed):
    return lambda statement: statement["predicate"].update(changed)


def component(**changed):
    return lambda bom: bom["metadata"]["component"].update(changed)


for name, path, change, reason in (
    ("test_result_failed", TEST_RESULT, predicate(result="FAILED"), 'predicate.result is "FAILED"'),
    (
        "test_result_of_more_tests",
        TEST_RESULT,
        lambda s: s["predicate"]["passedTests"].append("perplexity"),
        f'predicate.passedTests.{CHECKS} is "perplexity", the release gives null',
    ),
    (
        "test_result_of_fewer_tests",
        TEST_RESULT,
        lambda s: s["predicate"]["passedTests"].pop(),
        f"predicate.passedTests.{CHECKS - 1} is null",
    ),
    (
        "test_result_of_another_recipe",
        TEST_RESULT,
        lambda s: s["predicate"]["configuration"][0]["digest"].update(sha256="0" * 64),
        "predicate.configuration.0.digest.sha256 is",
    ),
    (
        "test_result_of_another_report",
        TEST_RESULT,
        lambda s: s["predicate"]["urn:hallmark:report"]["digest"].update(sha256="0" * 64),
        "predicate.urn:hallmark:report.digest.sha256 is",
    ),
    (
        "test_result_of_other_files",
        TEST_RESULT,
        lambda s: s["subject"][0]["digest"].update(sha256="0" * 64),
        "subject.0.digest.sha256 is",
    ),
    ("test_result_with_a_url", TEST_RESULT, predicate(url="https://x"), "predicate.url is"),
    ("bom_of_another_model", BOM, component(name="other"), 'metadata.component.name is "other"'),
    ("bom_of_another_licence", BOM, component(licenses=[{"license": {"id": "MIT"}}]),
     "metadata.component.licenses.0 is"),
    ("bom_without_a_source", BOM, lambda bom: bom["components"].pop(0), "components.0."),
    ("bom_with_an_author", BOM, lambda bom: bom["metadata"].update(authors=[]), "metadata.authors"),
    ("bom_of_another_base", BOM,
     lambda bom: bom["components"][0].update(purl="pkg:huggingface/a/b@c"), "components.0.purl is"),
):  # fmt: skip
    followed(name, path, change, reason)


@case("test-result.json: is not in canonical JSON, so it was changed since")
def resigned_test_result_indented(bench):
    path = bench / TEST_RESULT
    path.write_text(json.dumps(json.loads(path.read_bytes()), indent=1), encoding="utf-8")
    bench.list_files()


@case(f"{TEST_RESULT}: is not in the folder")
def test_result_removed(bench):
    (bench / TEST_RESULT).unlink()


@case("provenance/test-result.sigstore.json: is missing")
def test_result_unsigned(bench):
    (bench / "provenance/test-result.sigstore.json").unlink()


@case("the signature is over another test-result.json than the one here")
def test_result_edited(bench):
    bench.edit(TEST_RESULT, predicate(result="FAILED"))


@case(f"{BOM}: has")
def bom_edited(bench):
    bench.edit(BOM, component(name="other"))


@case(f"{BOM}: is not in the folder")
def resigned_bom_removed(bench):
    (bench / BOM).unlink()
    bench.list_files()
