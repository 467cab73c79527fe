"""What a stranger can ask of verify-release: whom to trust, what to demand, and what is told."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from hashlib import sha256

import pytest
from assets.verify.bench import (
    SIGNED_LIST,
    SIGNED_MANIFEST,
    build_in_image,
    dependency,
    encoded,
    envelope,
)
from assets.verify.cases_report import checked
from conftest import FLAGSHIP

from assay.release import policy, verify
from assay.release.steps import Demands
from assay.release.trust import Identity
from forge.core import checkout, image_labels
from forge.core.errors import ReleaseError
from forge.manifest.policy import KNOWN_BUILDERS, Policy

RECIPE = f"build/variants/{FLAGSHIP}.toml"
ISSUER = "https://token.actions.githubusercontent.com"


def command(folder, *options):
    return subprocess.run(
        [sys.executable, "-m", "assay", "verify-release", folder, *options],
        capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip


def verdict(bench, demands):
    said = []
    verify.verify(bench.folder, demands, said.append)
    return said


def with_policy(demands, **wanted):
    return Demands(trust=demands.trust, policy=Policy(**{"builders": KNOWN_BUILDERS, **wanted}))


def test_steps_are_those_of_the_module(good, demands):
    """The numbered list at its head is what is told, in that order."""
    listed = [line.strip() for line in verify.__doc__.splitlines() if ". " in line[:4]]
    told = [f"{line.split()[0]}. {line.split()[2]}" for line in verdict(good, demands)]
    assert told == [line.partition(":")[0] + ":" for line in listed]


def test_command_line(good):
    done = command(good.folder, "--key", good.key.with_name("key.pub"), "--rehearsal")
    assert done.returncode == 0
    assert f"\n{good.folder} is verified: pkg:generic/{FLAGSHIP}@" in done.stdout
    other = command(good.folder, "--key", good.other_key.with_name("other.pub"))
    assert other.returncode == 41
    assert other.stdout.splitlines()[-1].split()[:3] == ["3", "FAIL", "signatures:"]


def test_needs_no_more_than_the_check_environment_has(good, tmp_path):
    """Neither compiled loops nor a hub client, even where a function would import them."""
    for name in ("numba", "torch", "huggingface_hub", "pyarrow", "docker"):
        (tmp_path / f"{name}.py").write_text(
            "raise ModuleNotFoundError('is not installed')", encoding="utf-8"
        )
    done = subprocess.run(
        [sys.executable, "-m", "assay", "verify-release", good.folder, "--key",
         good.key.with_name("key.pub"), "--rehearsal"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--identity", "someone"),
        ("--unsigned", "--identity", "someone", "--issuer", ISSUER),
    ],
)
def test_trust_is_named_once(good, options):
    done = command(good.folder, *options)
    assert done.returncode == 41
    assert "whom to trust must be named, and once" in done.stderr
    assert "help: Name one: `--key <public key>`, or" in done.stderr


def test_unsigned_only_if_asked_for(bench, demands):
    for name in (SIGNED_MANIFEST, SIGNED_LIST):
        (bench / name).unlink()
    with pytest.raises(ReleaseError, match="is missing, so the release is not signed in full"):
        verdict(bench, demands)
    done = command(bench.folder, "--unsigned", "--rehearsal")
    assert done.returncode == 0
    assert "nobody vouches for this release" in done.stdout


def test_unsigned_is_held_to_all_else(bench, demands):
    bench.flip("config.json", 10)
    with pytest.raises(ReleaseError, match="config.json: has sha256"):
        verdict(bench, replace(demands, trust=None))


def test_identity_does_not_take_a_key(good):
    trust = Identity(identity="someone", issuer=ISSUER)
    with pytest.raises(ReleaseError, match="was not signed by an identity") as told:
        verdict(good, Demands(trust=trust))
    assert told.value.remedy == "signed-by-key"


def test_identity_with_a_forged_certificate(bench):
    """Refused by sigstore-python, with or without a network."""

    def change(value):
        value["verificationMaterial"].pop("publicKey")
        value["verificationMaterial"]["certificate"] = {"rawBytes": encoded(b"certificate")}
        envelope(value)["signatures"][0].pop("keyid")

    for name in (SIGNED_MANIFEST, SIGNED_LIST):
        bench.rebundle(change, name)
    trust = Identity(identity="someone", issuer=ISSUER)
    with pytest.raises(ReleaseError, match=r"someone \(https://token.* did not sign this"):
        verdict(bench, Demands(trust=trust))


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        (
            {"builders": ("urn:hallmark:builder:host",)},
            "'urn:hallmark:builder:rehearsal' is not one",
        ),
        ({"level": "all"}, "was verified to the level 'structure', the policy demands 'all'"),
        ({"max_perplexity_ratio": 1.1}, "has no perplexity, the policy demands one"),
        ({"min_acceptance": (0.5,)}, "has no acceptance of drafts, the policy demands it"),
        ({"min_mtp_speedup": 1.0}, "has no time with MTP and without, the policy demands it"),
        ({"reproductions": 1}, "0 of 1 rebuilders demanded"),
    ],
)
def test_what_the_policy_demands(good, demands, wanted, reason):
    with pytest.raises(ReleaseError, match=reason):
        verdict(good, with_policy(demands, **wanted))


def test_policy_of_committed_builds(bench, demands):
    def change(statement):
        resources = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
        commit = next(one for one in resources if one["name"] == "hallmark")
        commit["annotations"]["uncommitted_changes"] = True

    bench.restate(change)
    with pytest.raises(ReleaseError, match="it was built with changes that are in no commit"):
        verdict(bench, with_policy(demands, committed=True))


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ({}, None),
        ({"max_perplexity_ratio": 1.06}, None),
        ({"max_perplexity_ratio": 5.0}, None),  # the recipe's own is the smaller one
        ({"max_perplexity_ratio": 1.01}, "perplexity is 1.0500 times the base's, the policy takes"),
        ({"min_mtp_speedup": 1.25}, None),
        ({"min_mtp_speedup": 1.26}, "with MTP it writes 1.2500 times as fast, the policy demands"),
        ({"min_acceptance": (0.8,)}, None),
        ({"min_acceptance": (0.0,)}, None),
        ({"min_acceptance": (0.85,)}, "at position 1, 0.8000 were accepted, the policy demands"),
        ({"min_acceptance": (0.8, 0.1)}, "has 1 positions of drafts, the policy demands 2"),
    ],
)
def test_a_policy_demands_more_than_the_recipe(bench, demands, wanted, reason):
    """The report of an engine that passes the recipe's own gates."""
    bench.assayed(lambda _: None)
    if reason is None:
        assert len(verdict(bench, with_policy(demands, **wanted))) == len(verify.STEPS)
    else:
        with pytest.raises(ReleaseError, match=reason):
            verdict(bench, with_policy(demands, **wanted))


@pytest.mark.parametrize(
    ("figures", "wanted"),
    [
        ({"result": 12.0, "ratio": 1.5}, {"max_perplexity_ratio": 2.0}),
        ({"drafts": 400, "accepted": [200], "acceptance": [0.5]}, {"min_acceptance": (0.4,)}),
    ],
)
def test_a_policy_demands_no_less_than_the_recipe(bench, demands, figures, wanted):
    """It does not take the place of the recipe's thresholds."""
    name = "perplexity" if "ratio" in figures else "smoke.mtp"
    bench.assayed(lambda report: checked(report, name)["measured"].update(figures))
    with pytest.raises(ReleaseError, match=f"{name} did not pass"):
        verdict(bench, with_policy(demands, **wanted))


@pytest.mark.parametrize("name", ["release", "rehearsal"])
def test_policies_that_ship_are_read(name):
    assert policy.read(checkout.ROOT / "verify" / "policies" / f"{name}.toml").level == "all"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("level = 'none'", "level: Input should be 'structure' or 'all'"),
        ("levle = 'all'", "levle: Extra inputs are not permitted"),
        ("builders = []", "builders: Tuple should have at least 1 item"),
        ("max_perplexity_ratio = nan", "max_perplexity_ratio"),
        ("level =", "cannot be read"),
        ("a = " + "[" * 5000 + "]" * 5000, "it nests too deeply"),
    ],
)
def test_policy_that_is_none(tmp_path, text, reason):
    (tmp_path / "policy.toml").write_text(text, encoding="utf-8")
    with pytest.raises(ReleaseError, match=reason):
        policy.read(tmp_path / "policy.toml")


def test_a_commit_that_git_does_not_name_is_not_taken_at_its_word(bench, demands, monkeypatch):
    """One step reads what the manifest says of its commit, and the others go by what it found."""

    def change(statement):
        resources = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
        commit = next(one for one in resources if one["name"] == "hallmark")
        commit["annotations"]["uncommitted_changes"] = False
        commit["digest"]["gitCommit"] = "0" * 40

    bench.restate(change)
    monkeypatch.setattr(checkout, "commit", lambda: ("unknown", True))
    told = [line for line in verdict(bench, demands) if "sources" in line]
    assert "those of this tree; git names no commit here" in told[0]
    with pytest.raises(ReleaseError, match="builder: the policy demands a commit, and git names"):
        verdict(bench, with_policy(demands, committed=True))


def test_release_of_a_commit_is_held_to_that_commit(bench, demands):
    """Whatever is checked out: the digests are those of the commit's own files, by git."""
    from assay.release import source_tree

    commit, _ = checkout.commit()
    if commit == "unknown":
        pytest.skip("this checkout has no git")

    def change(statement):
        definition = statement["predicate"]["buildDefinition"]
        definition["internalParameters"]["source"] = dict(source_tree._source_at(commit))
        for one in definition["resolvedDependencies"]:
            if one["name"].startswith(("build/", "lockfiles/")):
                blob = source_tree._at(commit, one["name"])
                one["digest"]["sha256"] = sha256(blob).hexdigest()
            if one["name"] == "hallmark":
                one["annotations"]["uncommitted_changes"] = False

    bench.restate(change)
    (told,) = [line for line in verdict(bench, demands) if "sources" in line]
    assert told.endswith(f"those of commit {commit}")


@pytest.mark.parametrize("files", ["all", "none"])
def test_a_commit_that_is_not_the_projects(bench, demands, tmp_path, monkeypatch, files):
    """One of the same files that no branch leads to, and one on a branch without the recipe."""
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", checkout.ROOT, clone], check=True)

    def git(*words):
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        done = subprocess.run(
            ["git", "-C", clone, *who, *words], capture_output=True, encoding="utf-8", check=True
        )
        return done.stdout.strip()

    tree = "HEAD^{tree}" if files == "all" else git("hash-object", "-w", "-t", "tree", "/dev/null")
    commit = git("commit-tree", "-m", "x", tree)
    if files == "none":
        git("branch", "other", commit)
    monkeypatch.setattr(checkout, "ROOT", clone)

    def change(statement):
        tree = dependency(statement, "hallmark")
        tree["annotations"]["uncommitted_changes"] = False
        tree["digest"]["gitCommit"] = commit

    bench.restate(change)
    told = {
        "all": f"sources: commit {commit} is in this clone, but on no branch and under no tag",
        "none": f"sources: {RECIPE}: the manifest says sha256 .*, in commit {commit} it is not the",
    }
    with pytest.raises(ReleaseError, match=told[files]):
        verdict(bench, demands)


def test_source_at_a_commit_is_that_of_a_clean_tree(tmp_path):
    """The digests from git's objects are those that a build takes from the files."""
    from assay.release import source_tree

    commit, _ = checkout.commit()
    subprocess.run(["git", "clone", "-q", checkout.ROOT, tmp_path / "clone"], check=True)
    script = (
        "import json; from forge.core import checkout\nprint(json.dumps(checkout.source_digests()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, encoding="utf-8", check=True,
        env={"PYTHONPATH": f"{tmp_path / 'clone' / 'build'}"},
    )  # fmt: skip
    assert json.loads(done.stdout) == source_tree._source_at(commit)


def test_manifest_says_what_it_is_read_as(bench, demands):
    """The bytes that are parsed are those that were signed: the file is compared with them."""
    path = bench / "provenance/provenance.json"
    value = json.loads(path.read_bytes())
    path.write_text(json.dumps(value), encoding="utf-8")
    with pytest.raises(ReleaseError, match="over another provenance.json than the one here"):
        verdict(bench, demands)


def test_other_code_is_told(bench, demands, monkeypatch):
    """What it derives may be another thing, and its documents are not compared."""
    from assay.release import rendered

    monkeypatch.setattr(rendered, "is_of_this_code", lambda _: False)
    (told,) = [line for line in verdict(bench, demands) if "documents" in line]
    assert re.search("not compared: they were made by other code; commit [0-9a-f]{40}", told)
    bench.restate(lambda statement: dependency(statement, "base/config.json").update(uri="x"))
    with pytest.raises(
        ReleaseError, match="is not the one that built it: check out commit [0-9a-f]"
    ):
        verdict(bench, demands)


@pytest.mark.parametrize("local", [False, True])
def test_a_build_in_the_image(bench, demands, local):
    """Also in one that begins with an image of one's own, which has a name without a digest."""

    def restated(statement):
        build_in_image(statement)
        if local:
            internal = statement["predicate"]["buildDefinition"]["internalParameters"]
            labels = internal["machine"]["container"]["image"]["labels"]
            labels[image_labels.BASE_NAME] = "localhost/own:1"
            dependency(statement, "image")["annotations"]["labels"] = labels
            dependency(statement, "image/base")["uri"] = "oci:localhost/own:1"

    bench.restate(restated)
    assert any("builder:rehearsal:image" in line for line in verdict(bench, demands))
