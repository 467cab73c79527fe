"""Statements of rebuilders: only after a rebuild that succeeded, counted by distinct keys."""

import datetime
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
from conftest import FLAGSHIP

from assay.rebuild import reproduce
from assay.release import rebuilders, trust, verify
from assay.release.steps import Demands
from forge.core import canonical
from forge.core.errors import DifferenceError, ManifestError, ReleaseError, SigningError
from forge.core.store import Store
from forge.manifest import document
from forge.manifest.policy import KNOWN_BUILDERS, Policy
from forge.release import bundle, keys


@pytest.fixture(scope="module")
def report(good, tmp_path_factory):
    """What a real rebuild of the good release found, as `make reproduce` writes it."""
    work = tmp_path_factory.mktemp("reproduced")
    subprocess.run(
        [
            sys.executable, "-m", "assay", "reproduce", good.folder,
            "--base", good.key.parent / "base", "--store", work / "store",
            "--report", work / "report.json",
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    return work / "report.json"


@pytest.fixture
def attested(good, report, tmp_path):
    def sign(key, folder=good.folder):
        return rebuilders.attest_reproduction(folder, report, key, None, tmp_path / "statements")

    return sign


def verdict(bench, demands, k, statements, rebuilders):
    said = []
    verify.verify(
        bench.folder,
        Demands(
            trust=demands.trust,
            policy=Policy(builders=KNOWN_BUILDERS, reproductions=k),
            statements=statements,
            rebuilders=[trust.by_key(path.with_name(f"{path.name}.pub")) for path in rebuilders],
        ),
        said.append,
    )
    return said[-1]


def test_statement_says_what_was_compared(good, report, attested, new_key):
    key = new_key("one")
    path = attested(key)
    data = path.read_bytes()
    statement = json.loads(bundle.payload(bundle.read(data, "it")))
    assert statement["predicateType"] == "urn:hallmark:reproduction:v1"
    predicate = statement["predicate"]
    assert predicate["verdict"] == "identical"
    assert predicate["compared"] == {"against": "files", "files": 10, "tensors": 109}
    assert predicate["compared"] == json.loads(report.read_text(encoding="utf-8"))["compared"]
    manifest = good / "provenance/provenance.json"
    assert predicate["manifest"]["digest"]["sha256"] == canonical.sha256_file(manifest)
    name = keys.signer(key).public_key.keyid
    assert predicate["builder"]["id"] == f"urn:hallmark:rebuilder:{name[:16]}"
    assert len(statement["subject"]) == 10


def test_two_of_two(good, demands, attested, new_key):
    one, two = new_key("one"), new_key("two")
    statements = [attested(one), attested(two)]
    told = verdict(good, demands, 2, statements, [one, two])
    assert told == "17  pass  reproductions: 2 rebuilders, 2 demanded"


def test_the_same_key_twice_is_one(good, demands, attested, new_key, tmp_path):
    one = new_key("one")
    again = shutil.copy(attested(one), tmp_path / "again.sigstore.json")
    with pytest.raises(ReleaseError, match="1 of 2 rebuilders demanded"):
        verdict(good, demands, 2, [attested(one), again], [one, one])


def test_stranger_does_not_count(good, demands, attested, new_key):
    one, two = new_key("one"), new_key("two")
    with pytest.raises(ReleaseError, match="1 of 2 .* which is no key of the rebuilders given"):
        verdict(good, demands, 2, [attested(one), attested(two)], [one])


def test_publisher_does_not_count(good, demands, attested):
    with pytest.raises(ReleaseError, match="is by the publisher of the release"):
        verdict(good, demands, 1, [attested(good.key)], [good.key])


def test_statement_of_another_release(bench, demands, attested, new_key):
    one = new_key("one")
    statement = attested(one)

    def change(manifest):
        internal = manifest["predicate"]["buildDefinition"]["internalParameters"]
        internal["machine"]["kernel"] = "another"

    bench.restate(change)
    with pytest.raises(ReleaseError, match="is of another release"):
        verdict(bench, demands, 1, [statement], [one])


@pytest.fixture
def bench_of_one(good, demands, attested, new_key):
    """A good release, what is demanded of it, a way to attest it, and a rebuilder."""
    return good, demands, attested, new_key("one")


def spoiled(path, key, change):
    """A statement with something changed, signed again by its rebuilder."""
    statement = json.loads(bundle.payload(bundle.read(path.read_bytes(), "it")))
    change(statement)
    payload = (canonical.dumps(statement) + "\n").encode()
    path.write_bytes(bundle.by_key(payload, keys.signer(key)))
    return path


def said(**changes):
    """A change of what a statement says beside its files."""
    return lambda statement: statement["predicate"].update(changes)


def compared(**counts):
    return lambda statement: statement["predicate"]["compared"].update(counts)


OTHER_ID = "urn:hallmark:rebuilder:0123456789abcdef"
COMMIT = "1" * 40


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (compared(tensors=1), "compared 10 files and 1 tensors, the release has 10 and 109"),
        (compared(tensors=110), "compared 10 files and 110 tensors"),
        (compared(files=1), "compared 1 files and 109 tensors"),
        (compared(files=0), "greater than 0"),
        (compared(tensors=-1), "greater than 0"),
        (said(commit=COMMIT), f"was rebuilt with commit {COMMIT}, expected is [0-9a-f]+"),
        (said(commit="unknown"), "was rebuilt with commit unknown"),
        (said(finishedOn="2020-01-01T00:00:00+00:00"), "rebuilt at 2020-.*, before it was built"),
        (
            said(finishedOn="2099-01-01T00:00:00+00:00"),
            "rebuilt at 2099-.*, which is in the future",
        ),
        (said(finishedOn="2026-02-30T00:00:00+00:00"), "states a time that does not exist"),
        (said(finishedOn="yesterday"), "finishedOn: String should match"),
        (said(builder={"id": ""}), "builder.id: String should match"),
        (said(builder={"id": "alice"}), "builder.id: String should match"),
        (said(builder={"id": "https://a b"}), "builder.id: String should match"),
        (said(builder={"id": f"https://{'a' * 300}"}), "builder.id: String should match"),
        (said(builder={"id": "urn:hallmark:builder:rehearsal"}), "id of the publisher's builder"),
        (said(builder={"id": "urn:hallmark:builder:host"}), "id of a builder that publishes"),
        (said(builder={"id": "URN:hallmark:builder:HOST/"}), "id of a builder that publishes"),
        (said(builder={"id": OTHER_ID}), f"states {OTHER_ID}, which is the id of another key"),
    ],
)
def test_statement_that_does_not_cover_this_release(bench_of_one, change, reason):
    good, demands, attested, one = bench_of_one
    statement = spoiled(attested(one), one, change)
    with pytest.raises(ReleaseError, match=f"0 of 1 rebuilders demanded; .*{reason}"):
        verdict(good, demands, 1, [statement], [one])


def test_a_commit_that_the_policy_names_counts(bench_of_one):
    good, demands, attested, one = bench_of_one
    statement = spoiled(attested(one), one, said(commit=COMMIT))
    policy = Policy(builders=KNOWN_BUILDERS, reproductions=1, rebuild_commits=(COMMIT,))
    keys_ = [trust.by_key(one.with_name("one.pub"))]
    verify.verify(
        good.folder,
        replace(demands, policy=policy, statements=[statement], rebuilders=keys_),
        lambda _: None,
    )


@pytest.mark.parametrize(
    "ids", [("https://a.org", "https://a.org"), ("https://a.org", "HTTPS://A.org/")]
)
def test_two_keys_with_one_id_are_one(good, demands, attested, new_key, ids):
    made = [(name, new_key(name)) for name in ("one", "two")]
    statements = [
        spoiled(attested(key), key, said(builder={"id": id_}))
        for (_, key), id_ in zip(made, ids, strict=True)
    ]
    both = [key for _, key in made]
    with pytest.raises(ReleaseError, match="1 of 2 .* states the id of another rebuilder"):
        verdict(good, demands, 2, statements, both)
    verdict(good, demands, 1, statements, both)


@pytest.mark.parametrize("backwards", [False, True])
def test_a_key_with_two_ids_is_none(*, good, demands, attested, new_key, tmp_path, backwards):
    one = new_key("one")
    statements = []
    for name in ("a", "b"):
        made = spoiled(attested(one), one, said(builder={"id": f"https://{name}.org"}))
        statements.append(made.rename(tmp_path / f"{name}.json"))
    with pytest.raises(ReleaseError, match=r"0 of 1 .* states 2 ids: https://a.org, https://b.org"):
        verdict(good, demands, 1, statements[::-1] if backwards else statements, [one])


@pytest.fixture
def of_policy(good, attested):
    """The last line of a verification by a policy that names rebuilders, and perhaps more."""

    def told(holders, statements=None, **tables):
        entries = [
            {
                "name": path.name,
                "sha256": keys.signer(path).public_key.keyid,
                "pem": path.with_name(f"{path.name}.pub").read_text(encoding="utf-8"),
                **also,
            }
            for path, also in holders
        ]
        wanted = Policy.model_validate_json(
            json.dumps({"builders": KNOWN_BUILDERS, "rebuilders": entries, **tables})
        )
        by = trust.publisher(wanted, key=None if wanted.keys else good.key.with_name("key.pub"))
        said = []
        verify.verify(
            good.folder,
            Demands(
                trust=by,
                policy=wanted,
                statements=statements or [attested(path) for path, _ in holders],
                rebuilders=trust.rebuilders(wanted, []),
            ),
            said.append,
        )
        return said[-1]

    return told


def revoked(key, **also):
    return [{"sha256": keys.signer(key).public_key.keyid, "reason": "it was lost", **also}]


PAST, FUTURE = "2020-01-01", "2090-01-01"


def test_rebuilders_of_a_policy(of_policy, new_key):
    both = [(new_key("one"), {}), (new_key("two"), {"since": PAST, "until": FUTURE})]
    told = of_policy(both, reproductions=2, max_rebuild_age_days=1)
    assert told.endswith("reproductions: 2 rebuilders, the last 0 days ago, 2 demanded")


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"since": FUTURE}, r"is by key \w+, which counts from 2090-\S+ on"),
        ({"until": PAST}, r"is by key \w+, which counts until 2020-\S+"),
        ({"id": "https://a.org"}, "states urn:hall.*, the policy has https://a.org for its key"),
    ],
)
def test_a_rebuilder_who_does_not_count_by_the_policy(of_policy, new_key, entry, reason):
    with pytest.raises(ReleaseError, match=f"0 of 1 rebuilders demanded; .*{reason}"):
        of_policy([(new_key("one"), entry)], reproductions=1)


@pytest.mark.parametrize(
    ("entry", "counts"), [({}, False), ({"since": PAST}, False), ({"since": FUTURE}, True)]
)
def test_a_rebuilder_whose_key_is_revoked(of_policy, new_key, entry, counts):
    one = new_key("one")
    asked = {"reproductions": 1, "revoked": revoked(one, **entry)}
    if counts:
        assert of_policy([(one, {})], **asked).endswith("1 rebuilders, 1 demanded")
        return
    with pytest.raises(ReleaseError, match=r"0 of 1 .* which was revoked.*: it was lost"):
        of_policy([(one, {})], **asked)


def test_a_revoked_key_of_an_option_is_revoked(good, demands, attested, new_key):
    one = new_key("one")
    wanted = Policy.model_validate_json(
        json.dumps({"builders": KNOWN_BUILDERS, "reproductions": 1, "revoked": revoked(one)})
    )
    with pytest.raises(ReleaseError, match="0 of 1 .* which was revoked: it was lost"):
        verify.verify(
            good.folder,
            replace(
                demands,
                policy=wanted,
                statements=[attested(one)],
                rebuilders=[trust.by_key(one.with_name("one.pub"))],
            ),
            lambda _: None,
        )


def test_another_key_of_the_publisher_does_not_count(good, attested, new_key):
    """A publisher's second key, which has not signed this release, is not somebody else's."""
    other = new_key("other")
    own = [
        {
            "name": path.name,
            "sha256": keys.signer(path).public_key.keyid,
            "pem": path.with_name(f"{path.name}.pub").read_text(encoding="utf-8"),
            "variants": [FLAGSHIP],
        }
        for path in (good.key, other)
    ]
    wanted = Policy.model_validate_json(
        json.dumps({"builders": KNOWN_BUILDERS, "reproductions": 1, "keys": own})
    )
    with pytest.raises(ReleaseError, match="0 of 1 .* is by the publisher of the release"):
        verify.verify(
            good.folder,
            Demands(
                trust=trust.publisher(wanted),
                policy=wanted,
                statements=[attested(other)],
                rebuilders=[trust.by_key(other.with_name("other.pub"))],
            ),
            lambda _: None,
        )


def test_the_newest_statement_may_be_too_old():
    """Of all that count, the newest; of none, there is no newest."""
    old, new = (
        (datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=days, hours=1)).isoformat()
        for days in (40, 20)
    )
    policy = Policy(max_rebuild_age_days=20)
    with pytest.raises(ReleaseError, match="rebuilt at .*, 20 days ago; at most 20 are taken; why"):
        rebuilders.require_enough({"a": old, "b": new}, ["why"], policy)
    policy = Policy(max_rebuild_age_days=21)
    told = rebuilders.require_enough({"a": old, "b": new}, [], policy)
    assert told == "2 rebuilders, the last 20 days ago, 0 demanded"
    with pytest.raises(
        ReleaseError, match="none rebuilt it, and the policy demands a rebuild; why"
    ):
        rebuilders.require_enough({}, ["why"], policy)


@pytest.mark.parametrize("backwards", [False, True])
def test_a_rebuilder_counts_with_the_newest_statement(*, good, attested, new_key, backwards):
    one = new_key("one")
    path = attested(one)
    statement = json.loads(bundle.payload(bundle.read(path.read_bytes(), "it")))
    release = rebuilders.Rebuildable(
        files={each["name"]: each["digest"]["sha256"] for each in statement["subject"]},
        tensors=statement["predicate"]["compared"]["tensors"],
        manifest_sha256=statement["predicate"]["manifest"]["digest"]["sha256"],
        finished="2020-01-01T00:00:00+00:00",
        commit=statement["predicate"]["commit"],
        builder="urn:hallmark:builder:host",
        signed_by=keys.signer(good.key).public_key.keyid,
        policy=Policy(),
    )
    times = [f"{year}-01-01T00:00:00+00:00" for year in (2021, 2023, 2022)]
    statements = [
        spoiled(shutil.copy(path, path.with_name(str(number))), one, said(finishedOn=time))
        for number, time in enumerate(times)
    ]
    trusted = [trust.by_key(one.with_name("one.pub"))]
    given = statements[::-1] if backwards else statements
    counted, refused = rebuilders.check(given, trusted, release)
    assert (list(counted.values()), refused) == ([times[1]], [])


def test_what_was_compared_is_signed_whatever_comes_of_the_folder(
    *, bench, good, report, demands, new_key, tmp_path
):
    """Files and their list change between the rebuild and the signing."""
    wrong = "0" * 64
    sums = bench / "provenance/SHA256SUMS"
    text = sums.read_text(encoding="utf-8")
    sums.write_text(text.replace(text[:64], wrong), encoding="utf-8")
    bench.flip("config.json", 5)
    one = new_key("one")
    path = rebuilders.attest_reproduction(bench.folder, report, one, None, tmp_path / "statements")
    subject = json.loads(bundle.payload(bundle.read(path.read_bytes(), "it")))["subject"]
    found = {each["name"]: each["digest"]["sha256"] for each in subject}
    assert found == {name: canonical.sha256_file(good / name) for name in found}
    assert wrong not in found.values()
    assert verdict(good, demands, 1, [path], [one]).endswith("1 rebuilders, 1 demanded")


@pytest.mark.parametrize(
    ("builder", "reason"),
    [
        ("", "is no id of a rebuilder"),
        ("alice", "is no id of a rebuilder"),
        ("https://a\nb", "is no id of a rebuilder"),
        ("urn:hallmark:builder:host", "is the id of a builder that publishes"),
        (OTHER_ID, "is the id of another key"),
    ],
)
def test_no_statement_under_an_id_of_others(*, good, report, new_key, tmp_path, builder, reason):
    with pytest.raises(SigningError, match=reason):
        rebuilders.attest_reproduction(good.folder, report, new_key("one"), builder, tmp_path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda s: s["subject"].pop(), "is about other files than those here"),
        (lambda s: s["subject"][0].update(digest={"md5": "0"}), "sha256: Field required"),
        (lambda s: s["subject"][0].update(digest={"sha256": "0" * 64}), "is about other files"),
        (lambda s: s.update(unknown=1), "first unknown: Extra inputs are not permitted"),
        (lambda s: s["predicate"].update(unknown=1), "predicate.unknown: Extra inputs"),
        (lambda s: s["predicate"].update(verdict="differs"), "Input should be 'identical'"),
        (lambda s: s["predicate"].update(compared={}), "Field required"),
        (lambda s: s.update(predicateType="urn:other"), "urn:hallmark:reproduction:v1"),
    ],
)
def test_statement_of_something_else(bench_of_one, change, reason):
    good, demands, attested, one = bench_of_one
    statement = spoiled(attested(one), one, change)
    with pytest.raises(ReleaseError, match=reason):
        verdict(good, demands, 1, [statement], [one])


def test_statement_with_a_forged_signature(good, demands, attested, new_key):
    one = new_key("one")
    path = attested(one)
    value = json.loads(path.read_bytes())
    value["dsseEnvelope"]["signatures"][0]["sig"] = "AAAA"
    path.write_bytes(bundle.spell(value))
    with pytest.raises(ReleaseError, match="0 of 1 .* the signature is not by key"):
        verdict(good, demands, 1, [path], [one])


def test_statement_that_is_not_there(good, demands, tmp_path):
    with pytest.raises(ReleaseError, match="none.: is not there"):
        verdict(good, demands, 1, [tmp_path / "none"], [])


def test_nothing_is_signed_for_a_rebuild_that_differs(bench, good, new_key, tmp_path):
    """The release's weights were changed: the rebuild says so, and the statement is refused."""
    bench.flip("model-mtp.safetensors", -1)
    found = reproduce.run(bench.folder, Store(tmp_path / "store"), base=good.key.parent / "base")
    document.write(tmp_path / "report.json", found.outcome)
    with pytest.raises(DifferenceError, match="is not reproduced, so nothing is signed"):
        rebuilders.attest_reproduction(
            bench.folder, tmp_path / "report.json", new_key("one"), None, tmp_path / "statements"
        )
    assert not (tmp_path / "statements").exists()


def test_report_of_another_release(bench, attested, new_key):
    bench.restate(
        lambda s: s["predicate"]["runDetails"]["metadata"].update(
            finishedOn="2031-01-01T00:00:00+00:00"
        )
    )
    with pytest.raises(ManifestError, match="is of another release"):
        attested(new_key("one"), bench.folder)


def test_reproduction_needs_a_key(attested):
    with pytest.raises(SigningError, match="is signed with a key"):
        attested(None)


def test_statement_that_is_a_pipe_or_has_no_end(good, demands, tmp_path):
    """Neither is waited for, nor read."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "sparse").touch()
    os.truncate(tmp_path / "sparse", 8 << 30)
    for name, reason in (("pipe", "is a pipe"), ("sparse", "has 8589934592 bytes")):
        with pytest.raises(ReleaseError, match=reason):
            verdict(good, demands, 1, [tmp_path / name], [])
