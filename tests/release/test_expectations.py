"""Which release is expected: what was stated must hold, and the verdict says what was not."""

import datetime
import subprocess
import sys
from dataclasses import replace

import pytest
from conftest import FLAGSHIP

from assay.release import expectations, policy, verify
from forge.core import canonical, checkout
from forge.core.errors import ReleaseError
from forge.manifest import provenance
from forge.manifest.policy import KNOWN_BUILDERS, Expected, Policy
from forge.manifest.provenance import REHEARSALS

COMMIT = "1" * 40
DIGEST = "2" * 64


def verdict(bench, demands, **stated):
    """The step `expected`, and the verdict."""
    said = []
    demands = replace(demands, stated=expectations.stated(**{"formats": None, **stated}))
    told = verify.verify(bench.folder, demands, said.append)
    (line,) = [one for one in said if "  expected: " in one]
    return line.partition("expected: ")[2], told


def digest_of(bench):
    return canonical.sha256_file(bench / "provenance/provenance.json")


def committed(*, changes=False):
    """A change of a manifest: it names a commit."""

    def change(statement):
        for one in statement["predicate"]["buildDefinition"]["resolvedDependencies"]:
            if one["name"] == "hallmark":
                one["digest"]["gitCommit"] = COMMIT
                one["annotations"]["uncommitted_changes"] = changes

    return change


def test_without_a_statement_the_verdict_says_what_is_open(good, demands):
    line, told = verdict(good, demands)
    assert line == "nothing is stated of which release it should be"
    assert told == (
        f"pkg:generic/{FLAGSHIP}@{digest_of(good)}; not established: which variant it is, which "
        "build of it, how fresh it is, which commit built it, which revision of the base it was "
        "made from, which formats it has, that others can rebuild it"
    )


def test_a_digest_establishes_all_but_the_rebuild(good, demands):
    line, told = verdict(good, demands, digest=digest_of(good))
    assert line == f"digest {digest_of(good)}"
    assert told.endswith("; not established: that others can rebuild it")


def test_nobody_who_signed_is_open_too(good, demands):
    _, told = verdict(good, replace(demands, trust=None), digest=digest_of(good))
    assert told.endswith("; not established: who made it, that others can rebuild it")


@pytest.mark.parametrize(
    ("stated", "without"),
    [
        ({"variant": FLAGSHIP}, "which variant"),
        ({"since": "2026-01-01"}, "how fresh"),
        ({"formats": "nvfp4"}, "which formats"),
    ],
)
def test_what_holds_is_established(good, demands, stated, without):
    line, told = verdict(good, demands, **stated)
    assert without not in told
    assert line != "nothing is stated of which release it should be"


def test_an_age_is_fresh(good, demands):
    wanted = demands.policy.model_copy(update={"max_age_days": 2})
    line, told = verdict(good, replace(demands, policy=wanted))
    assert line.startswith("built ")
    assert "how fresh" not in told


@pytest.mark.parametrize(
    ("stated", "reason"),
    [
        ({"variant": "qwen36-27b-text"}, f"the variant is '{FLAGSHIP}', expected is 'qwen36-27b-t"),
        ({"digest": DIGEST}, rf"the digest is '[0-9a-f]{{64}}', expected is '{DIGEST}'"),
        ({"since": "2099-01-01"}, r"was built at 20\S+, expected is 2099-01-01T00:00:00\+00:00 or"),
        ({"since": "2099-01-01T02:00:00+02:00"}, r"was .* is 2099-01-01T00:00:00\+00:00 or"),
        ({"since": "2099-01-01 00:00:00Z"}, r"was .* is 2099-01-01T00:00:00\+00:00 or later"),
        ({"commit": COMMIT}, f"the commit is '.*', expected is '{COMMIT}'"),
        ({"revision": COMMIT}, f"the revision of the base is 'local:base', expected is '{COMMIT}'"),
        ({"formats": "fp8"}, "the formats is 'nvfp4', expected is 'fp8'"),
        ({"formats": "nvfp4,fp8"}, "the formats is 'nvfp4', expected is 'fp8, nvfp4'"),
    ],
)
def test_what_does_not_hold_is_refused_with_both_values(good, demands, stated, reason):
    with pytest.raises(ReleaseError, match=f"expected: (it )?{reason}"):
        verdict(good, demands, **stated)


@pytest.mark.parametrize(
    ("stated", "reason"),
    [
        ({"variant": ""}, "variant: String should have at least 1 character"),
        ({"digest": "abc"}, "digest: String should match"),
        ({"digest": DIGEST.upper().replace("2", "A")}, "digest: String should match"),
        ({"digest": f"{DIGEST}\n"}, "digest: String should match"),
        ({"commit": "main"}, "commit: String should match"),
        ({"revision": "main"}, "revision: String should match"),
        ({"formats": "nvfp5"}, "formats.0: Input should be 'nvfp4' or 'fp8'"),
        ({"formats": ""}, "formats.0: Input should be"),
        ({"since": "yesterday"}, "since: Value error, must be a date"),
        ({"since": "2026-02-30"}, "since: Value error, is a time that does not exist"),
        ({"since": "2026-01-01T00:00:00"}, "since: Value error, must be a date"),
        (
            {"since": "0001-01-01T00:00:00+23:00"},
            "since: Value error, is a time that does not exist",
        ),
        ({"since": ""}, "since: Value error, must be a date"),
    ],
)
def test_what_cannot_be_expected(stated, reason):
    with pytest.raises(ReleaseError, match=f"what is expected cannot be read: {reason}") as told:
        expectations.stated(**{"formats": None, **stated})
    assert "\n" not in str(told.value)


def test_policy_and_option_must_both_hold(good, demands):
    """One does not replace the other."""
    other = Policy(builders=KNOWN_BUILDERS, expected=Expected(variant="other"))
    with pytest.raises(ReleaseError, match="expected is 'other'"):
        verdict(good, replace(demands, policy=other), variant=FLAGSHIP)
    same = Policy(builders=KNOWN_BUILDERS, expected=Expected(variant=FLAGSHIP))
    with pytest.raises(ReleaseError, match="expected is 'other'"):
        verdict(good, replace(demands, policy=same), variant="other")


def manifest_of(bench):
    return provenance.read(bench / "provenance")


def test_a_commit_with_further_changes_is_not_that_commit(bench):
    bench.edit("provenance/provenance.json", committed(changes=True))
    with pytest.raises(ReleaseError, match=f"is '{COMMIT} with further changes', expected"):
        expectations.check([Expected(commit=COMMIT)], manifest_of(bench), DIGEST, [], None)
    bench.edit("provenance/provenance.json", committed())
    told = expectations.check([Expected(commit=COMMIT)], manifest_of(bench), DIGEST, [], None)
    assert told == [f"commit {COMMIT}"]


def test_a_commit_where_there_is_no_git(bench, demands, monkeypatch):
    """What the manifest says of itself is not what was looked at."""
    bench.restate(committed())
    monkeypatch.setattr(checkout, "commit", lambda: ("unknown", False))
    why = f"commit {COMMIT} is expected, and git names no commit here, so nobody looked"
    with pytest.raises(ReleaseError, match=f"expected: {why}") as told:
        verdict(bench, demands, commit=COMMIT)
    assert told.value.remedy == "no-commit-here"
    _, verified = verdict(bench, demands)
    assert "which commit built it" in verified


@pytest.mark.parametrize(
    ("uris", "found"),
    [
        ((f"pkg:huggingface/a/b@{COMMIT}",), None),
        (("standin:qwen36-dense",), "standin:qwen36-dense"),
        ((f"pkg:huggingface/a/b@{COMMIT}", f"pkg:huggingface/c/d@{COMMIT}"), "pkg:hugg.*, pkg:"),
        ((f"pkg:other/a/b@{COMMIT}",), "pkg:other"),
        ((f"pkg:huggingface/a/b@{COMMIT}@{'3' * 40}",), "pkg:huggingface"),
    ],
)
def test_revision_of_the_base(bench, uris, found):
    def change(statement):
        resources = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
        bases = [one for one in resources if one["name"].startswith("base/")]
        for number, one in enumerate(bases):
            one["uri"] = f"{uris[number % len(uris)]}#{one['name'].partition('/')[2]}"

    bench.edit("provenance/provenance.json", change)
    wanted = [Expected(revision=COMMIT)]
    if found is None:
        told = expectations.check(wanted, manifest_of(bench), DIGEST, [], None)
        assert told == [f"revision of the base {COMMIT}"]
    else:
        with pytest.raises(ReleaseError, match=f"base is '{found}.*', expected is '{COMMIT}'"):
            expectations.check(wanted, manifest_of(bench), DIGEST, [], None)


def test_a_build_may_be_too_old(bench):
    then = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=40, hours=1)

    def change(statement):
        stated = then.isoformat(timespec="seconds")
        statement["predicate"]["runDetails"]["metadata"]["finishedOn"] = stated

    bench.edit("provenance/provenance.json", change)
    manifest = manifest_of(bench)
    assert expectations.check_age(manifest, 41) == "built 40 days ago"
    with pytest.raises(ReleaseError, match=r"was built at .*, 40 days ago; at most 39 are taken"):
        expectations.check_age(manifest, 39)


def test_a_rehearsal_is_taken_only_if_asked_for(good, demands):
    with pytest.raises(
        ReleaseError, match="builder:rehearsal' is not one of .*:host, .*:image"
    ) as no:
        verdict(good, replace(demands, policy=policy.demanded(None, rehearsal=False)))
    assert no.value.remedy == "take-rehearsal"
    verdict(good, replace(demands, policy=policy.demanded(None, rehearsal=True)))


def test_an_option_does_not_open_a_policy_to_rehearsals(tmp_path):
    strict, open_ = tmp_path / "strict.toml", tmp_path / "open.toml"
    strict.write_text("level = 'all'\n", encoding="utf-8")
    open_.write_text(f"builders = ['{REHEARSALS['host']}']\n", encoding="utf-8")
    with pytest.raises(ReleaseError, match=r"strict.toml: takes no rehearsal, and no option loos"):
        policy.demanded(strict, rehearsal=True)
    for rehearsal in (False, True):
        assert policy.demanded(open_, rehearsal=rehearsal).builders == (REHEARSALS["host"],)


def test_dates_of_a_policy_file(tmp_path):
    """TOML has dates and times of its own."""
    file = tmp_path / "policy.toml"
    for text, time in (
        ("2026-01-02", "2026-01-02T00:00:00+00:00"),
        ("'2026-01-02'", "2026-01-02T00:00:00+00:00"),
        ("2026-01-02T03:04:05+01:00", "2026-01-02T02:04:05+00:00"),
        ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05+00:00"),
    ):
        file.write_text(f"[expected]\nsince = {text}\n", encoding="utf-8")
        assert policy.read(file).expected.since == time
    file.write_text("[expected]\nsince = 2026-01-02T03:04:05\n", encoding="utf-8")
    with pytest.raises(ReleaseError, match="must be a date, as 2026-11-28, or a time with its"):
        policy.read(file)


@pytest.mark.parametrize("days", ["0", "-1", "36501", "inf", "nan", "1.5", "true", "'7'"])
def test_an_age_has_bounds(tmp_path, days):
    (tmp_path / "policy.toml").write_text(f"max_age_days = {days}\n", encoding="utf-8")
    with pytest.raises(ReleaseError, match="max_age_days"):
        policy.read(tmp_path / "policy.toml")


def test_command_line(good):
    key = good.key.with_name("key.pub")
    command = [sys.executable, "-m", "assay", "verify-release", good.folder, "--key", key]
    done = subprocess.run(
        [*command, "--rehearsal", "--variant", FLAGSHIP, "--digest", digest_of(good), "--since",
         "2026-01-01", "--formats", "nvfp4"],
        capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("; not established: that others can rebuild it\n")
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 41
    assert "help: If a rehearsal is what you expect, say `--rehearsal`" in done.stderr
