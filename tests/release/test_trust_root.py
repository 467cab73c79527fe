"""A publisher's policy file: keys and what each may sign, rebuilders, revocations and recalls."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
from conftest import FLAGSHIP

from assay.release import policy, publisher, trust, verify
from forge.core import canonical, checkout
from forge.core.errors import ReleaseError, SigningError
from forge.manifest import provenance
from forge.manifest.policy import KNOWN_BUILDERS
from forge.manifest.provenance import BUILDERS
from forge.manifest.trusted import MOST
from forge.release import keys

DIGEST = "2" * 64
LATER = "3" * 64
PAST, FUTURE = "2020-01-01T00:00:00+00:00", "2090-01-01T00:00:00+00:00"


def public(key):
    return key.with_name(f"{key.name}.pub")


def named(key, name="somebody", **also):
    """An entry of a table of keys."""
    return {
        "name": name,
        "sha256": keys.public(public(key)).keyid,
        "pem": public(key).read_text(encoding="utf-8"),
        **also,
    }


def signer(key, name="publisher", **also):
    return named(key, name, **{"variants": [FLAGSHIP], **also})


@pytest.fixture
def write(tmp_path):
    """Writes a policy that takes rehearsals, and reads it as the command line does."""

    def written(**tables):
        lines = []
        for key, value in {"builders": list(KNOWN_BUILDERS), **tables}.items():
            if isinstance(value, list) and value and isinstance(value[0], dict):
                for one in value:
                    lines += [f"[[{key}]]", *(f"{k} = {json.dumps(v)}" for k, v in one.items())]
            else:
                lines.insert(0, f"{key} = {json.dumps(value)}")
        path = tmp_path / "policy.toml"
        path.write_text("\n".join(lines), encoding="utf-8")
        return path

    return written


@pytest.fixture
def demand(write):
    """What a checker demands who has nothing but a policy file."""

    def demanded(demands, **tables):
        found = policy.demanded(write(**tables), rehearsal=False)
        return replace(demands, policy=found, trust=trust.publisher(found))

    return demanded


def digest_of(bench):
    return canonical.sha256_file(bench / "provenance/provenance.json")


def test_the_policy_is_enough(good, demands, demand, new_key):
    """Of several keys, the one that the release names has signed all of it."""
    said = []
    wanted = demand(demands, keys=[signer(new_key("other"), "other"), signer(good.key)])
    told = verify.verify(good.folder, wanted, said.append)
    assert "who made it" not in told
    name = keys.public(public(good.key)).keyid
    assert f"signatures: by key {name} (publisher), over the very bytes" in said[2]
    assert said[3].endswith("and the list of its release; publisher may sign it")


def test_a_key_that_the_policy_does_not_name(good, demands, demand, new_key):
    wanted = demand(demands, keys=[signer(new_key("other"), "other")])
    with pytest.raises(
        ReleaseError, match=r"signatures: .*, which is not one of the policy's keys: "
    ):
        verify.verify(good.folder, wanted, lambda _: None)


def test_bundles_of_two_keys(bench, demands, demand, new_key):
    """Each of the keys may sign the variant, but not a part of a release each."""
    other = new_key("other")
    wanted = demand(demands, keys=[signer(bench.key), signer(other, "other")])
    bench.sign("release.json", key=other)
    with pytest.raises(ReleaseError, match="signatures: .*: names key .*, the key given is"):
        verify.verify(bench.folder, wanted, lambda _: None)


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"variants": ["qwen36-27b-nvfp4"]}, "may sign qwen36-27b-nvfp4, and this release is"),
        ({"since": FUTURE}, f"counts from {FUTURE[:4]}.* on; this release was built at 20"),
        ({"until": PAST}, f"counts until {PAST[:4]}.*; this release was built at 20"),
    ],
)
def test_a_key_that_may_not_sign_this(good, demands, demand, entry, reason):
    with pytest.raises(ReleaseError, match=rf"statements: key \w+ \(publisher\): {reason}"):
        verify.verify(good.folder, demand(demands, keys=[signer(good.key, **entry)]), print)


def judged(good, found, digest=DIGEST):
    by = trust.by_key(public(good.key))
    return publisher.check(found, by, provenance.read(good / "provenance"), digest)


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize(
    ("entry", "taken"),
    [
        ({}, False),
        ({"since": PAST}, False),
        ({"since": FUTURE}, True),
        ({"releases": [LATER]}, False),
        ({"releases": [DIGEST]}, True),
        ({"releases": [DIGEST], "since": PAST}, True),
    ],
)
def test_revoked_keys(*, good, write, entry, taken, listed):
    """By the policy's own table or by an option, the publisher's key is revoked all the same."""
    name = keys.public(public(good.key)).keyid
    revoked = [{"sha256": name, "reason": "it was lost", **entry}]
    tables = {"keys": [signer(good.key)]} if listed else {}
    found = policy.demanded(write(**tables, revoked=revoked), rehearsal=False)
    if taken:
        judged(good, found)
        return
    since = f" from {PAST[:4]}.* on" if "since" in entry else ""
    with pytest.raises(ReleaseError, match=f"was revoked{since}: it was lost; this release was"):
        judged(good, found)


def test_recalled_releases(good, demands, demand):
    tables = {"keys": [signer(good.key)]}
    third = {"digest": DIGEST, "reason": "so"}
    first = {"digest": digest_of(good), "reason": "the head is wrong", "superseded_by": DIGEST}
    second = {"digest": DIGEST, "reason": "the card is wrong", "superseded_by": LATER}
    for recalled, reason in (
        ([first], f"was recalled: the head is wrong. Use {DIGEST} instead"),
        ([second, first], f"was recalled: the head is wrong. Use {LATER} instead"),
        ([first, third], r"was recalled: the head is wrong\.$"),
    ):
        with pytest.raises(ReleaseError, match=f"statements: release {first['digest']} {reason}"):
            verify.verify(good.folder, demand(demands, **tables, recalled=recalled), print)


def test_the_last_of_many_recalled_releases_is_told():
    """As many as a policy may name: it took 42 s when each step of a walk searched them all."""
    recalled = [
        {"digest": f"{number:064x}", "reason": "so", "superseded_by": f"{number + 1:064x}"}
        for number in range(MOST)
    ]
    found = policy.Policy.model_validate({"recalled": tuple(recalled)})
    assert found.successor(recalled[0]["digest"]) == recalled[-1]["superseded_by"]


def test_a_recall_needs_no_signature(good, demands, write):
    """Nobody vouches for the release, and it is recalled all the same."""
    recalled = [{"digest": digest_of(good), "reason": "so"}]
    found = policy.demanded(write(recalled=recalled), rehearsal=False)
    wanted = replace(demands, policy=found, trust=trust.publisher(found, unsigned=True))
    with pytest.raises(ReleaseError, match="was recalled: so"):
        verify.verify(good.folder, wanted, lambda _: None)


def test_a_policy_expires(write):
    assert policy.demanded(write(expires="2090-01-01"), rehearsal=False).expires == FUTURE
    with pytest.raises(ReleaseError, match=r"policy.toml: expired at 2020-01-01T.*, so it may lac"):
        policy.demanded(write(expires="2020-01-01"), rehearsal=False)


def test_options_choose_and_do_not_add(good, write, new_key):
    other, third = new_key("other"), new_key("third")
    found = policy.read(write(keys=[signer(good.key), signer(other, "other")]))
    (chosen,) = trust.publisher(found, key=public(other)).keys
    assert chosen.name == "other"
    with pytest.raises(
        ReleaseError, match="third.pub: has key .* which is not one of the policy's k"
    ):
        trust.publisher(found, key=public(third))
    for option in ({"unsigned": True}, {"identity": "a", "issuer": "b"}, {"issuer": "b"}):
        with pytest.raises(ReleaseError, match="the policy names the publisher's keys, and no opt"):
            trust.publisher(found, **option)
    for option in ({"unsigned": True}, {"identity": "a", "issuer": "b"}):
        with pytest.raises(ReleaseError, match="whom to trust must be named, and once"):
            trust.publisher(found, key=public(other), **option)
    rebuild = policy.read(write(rebuilders=[named(other, "a"), named(third, "b")]))
    assert [one.name for one in trust.rebuilders(rebuild, [])] == ["a", "b"]
    assert [one.name for one in trust.rebuilders(rebuild, [public(third)])] == ["b"]
    with pytest.raises(
        ReleaseError, match="key.pub: has key .* not one of the policy's rebuilders"
    ):
        trust.rebuilders(rebuild, [public(third), public(good.key)])


def test_without_keys_somebody_is_named(good):
    for option in ({}, {"identity": "a"}, {"issuer": "b"}):
        with pytest.raises(ReleaseError, match="whom to trust must be named") as told:
            trust.publisher(policy.Policy(), **option)
        assert told.value.remedy == "whom-to-trust"
    assert trust.publisher(policy.Policy(), unsigned=True) is None
    assert trust.publisher(policy.Policy(), key=public(good.key)).name == ""


def test_a_key_has_the_name_beside_it(good, write, new_key):
    entry = signer(good.key)
    for wrong, error, reason in (
        ({"sha256": DIGEST}, ReleaseError, f"keys.0: its pem is key .*, its sha256 says {DIGEST}"),
        ({"pem": "nothing"}, SigningError, "the policy's keys.0.pem: is no public key in PEM"),
        ({"pem": new_key("x").read_text("utf-8")}, SigningError, "is no public key in PEM"),
    ):
        with pytest.raises(error, match=reason):
            trust.publisher(policy.read(write(keys=[{**entry, **wrong}])))


def test_tables_that_contradict_themselves(good, write, new_key):
    """Each is refused when the file is read."""
    one, other = signer(good.key), named(new_key("other"), "other")
    revoked = {"sha256": DIGEST, "reason": "so"}
    recalled = {"digest": DIGEST, "reason": "so"}
    again = {**recalled, "digest": LATER, "superseded_by": DIGEST}
    for tables, reason in (
        ({"keys": []}, "keys: Tuple should have at least 1 item"),
        ({"rebuilders": []}, "rebuilders: Tuple should have at least 1 item"),
        ({"keys": [one, {**one, "name": "b"}]}, f"the key {one['sha256']} is named twice"),
        ({"keys": [one], "rebuilders": [named(good.key)]}, "the key .* is named twice"),
        ({"keys": [one], "rebuilders": [{**other, "name": "PUBLISHER"}]}, "the name publisher is"),
        (
            {"rebuilders": [{**other, "id": "a:b"}, {**named(good.key), "id": "A:b/"}]},
            "the id a:b is named twice",
        ),
        ({"rebuilders": [other], "reproductions": 2}, "demands 2 rebuilders and names 1"),
        ({"revoked": [revoked, revoked]}, f"the revoked key {DIGEST} is named twice"),
        ({"recalled": [recalled, recalled]}, f"the recalled release {DIGEST} is named twice"),
        ({"recalled": [{**recalled, "superseded_by": DIGEST}]}, f"{DIGEST} supersedes itself"),
        ({"recalled": [{**recalled, "superseded_by": LATER}, again]}, "supersedes itself"),
        ({"keys": [{**one, "since": FUTURE, "until": PAST}]}, "'publisher' counts at no time"),
        ({"keys": [{**one, "since": PAST, "until": PAST}]}, "counts at no time"),
        ({"keys": [{**one, "since": "soon"}]}, "keys.0.since: .* must be a date"),
        ({"keys": [{**one, "variants": []}]}, "keys.0.variants: Tuple should have at least 1"),
        ({"keys": [{**one, "variants": ["a*"]}]}, "keys.0.variants.0: String should match"),
        ({"keys": [{**one, "sha256": "ab"}]}, "keys.0.sha256: String should match"),
        ({"keys": [{**one, "name": " "}]}, "keys.0.name: String should match"),
        ({"keys": [{**one, "pem": "x" * 2001}]}, "keys.0.pem: String should have at most 2000"),
        ({"keys": [{**one, "trusted": True}]}, "keys.0.trusted: Extra inputs"),
        ({"keys": [named(good.key)]}, "keys.0.variants: Field required"),
        ({"rebuilders": [{**other, "id": "alice"}]}, "rebuilders.0.id: String should match"),
        ({"revoked": [{"sha256": DIGEST}]}, "revoked.0.reason: Field required"),
        ({"recalled": [{**recalled, "superseded_by": ""}]}, "superseded_by: String should match"),
        ({"expires": "soon"}, "expires: .* must be a date"),
        ({"revoked": [{**revoked, "sha256": f"{n:064x}"} for n in range(1001)]}, "at most 1000"),
    ):
        with pytest.raises(ReleaseError, match=f"policy.toml: .*{reason}"):
            policy.read(write(**tables))


def test_examples_are_read():
    """The keys of the publisher's example are keys, and have the names beside them."""
    examples = sorted((checkout.ROOT / "verify/policies").glob("*.toml"))
    assert [path.stem for path in examples] == ["publisher", "rehearsal", "release"]
    found = policy.read(examples[0])
    assert len(trust.publisher(found).keys) == 2
    assert len(trust.rebuilders(found, [])) == 2
    assert found.reproductions == 1
    assert found.builders == (BUILDERS["host"], BUILDERS["image"])
    assert found.revoked[0].sha256 == found.keys[0].sha256
    assert found.successor(found.recalled[0].digest) is not None


def test_command_line(good, write, new_key):
    """A policy file is all that it needs; what lies in the release is no policy."""
    path = write(keys=[signer(good.key)], expected={})
    command = [sys.executable, "-m", "assay", "verify-release", good.folder, "--policy", path]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    assert " (publisher), over the very bytes" in done.stdout
    for option in (["--unsigned"], ["--key", public(new_key("other"))]):
        done = subprocess.run(
            [*command, *option], capture_output=True, encoding="utf-8", check=False
        )
        assert done.returncode == 41
        assert "no option loosens a policy" in done.stderr
