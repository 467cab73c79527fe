"""The manifest: standard form, every file and input by digest, checkable with standard tools."""

import hashlib
import json
import re
import subprocess

import pytest
from conftest import FACTS

from forge.core import canonical, checkout
from forge.manifest import document
from forge.manifest.verification import report
from forge.pipeline import work_on
from forge.release import attest
from forge.tensors import tensorfile


@pytest.fixture
def attested(built):
    """A release folder: the small checkpoint and its provenance."""
    verified = built.job.store.make(
        "verify",
        "key",
        lambda out: document.write(out / "verification.json", report(built.job.recipe, "none", [])),
        FACTS,
    )
    results = {**built.results, "verify": verified}
    out = built.checkpoint / "provenance"
    out.mkdir()
    attest.run(work_on(built.job, results), out)
    return built.checkpoint


def statement(attested):
    return json.loads((attested / "provenance" / "provenance.json").read_text(encoding="utf-8"))


def test_sums_satisfy_sha256sum(attested):
    """`sha256sum -c` run in the release folder, strictly, and every file is covered."""
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", "provenance/SHA256SUMS"],
        cwd=attested, capture_output=True, encoding="utf-8", check=True,
    )  # fmt: skip
    listed = {line.partition(":")[0] for line in done.stdout.splitlines()}
    assert listed == {path.name for path in attested.iterdir() if path.is_file()}


def test_sums_notice_a_changed_file(attested):
    (attested / "config.json").write_text("{}", encoding="utf-8")
    done = subprocess.run(
        ["sha256sum", "--check", "provenance/SHA256SUMS"],
        cwd=attested, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1


def test_tensor_lines(attested):
    """A sorted line of canonical JSON a tensor, with the digest of its stored bytes."""
    text = (attested / "provenance" / "tensors.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    tensors = tensorfile.read_checkpoint(attested)
    assert [line["name"] for line in lines] == sorted(tensors)
    assert text == "".join(canonical.dumps(line) + "\n" for line in lines)
    for line in lines:
        tensor = tensors[line["name"]]
        assert line == {
            "name": tensor.name,
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "nbytes": tensor.nbytes,
            "sha256": hashlib.sha256(tensor.read()).hexdigest(),
            "file": tensor.file.name,
        }


def test_statement_is_in_toto_with_slsa(attested):
    found = statement(attested)
    assert found["_type"] == "https://in-toto.io/Statement/v1"
    assert found["predicateType"] == "https://slsa.dev/provenance/v1"
    assert found["predicate"].keys() == {"buildDefinition", "runDetails"}
    text = (attested / "provenance" / "provenance.json").read_text(encoding="utf-8")
    assert text == canonical.dumps(found) + "\n"


def test_subjects_are_all_files_by_digest(attested):
    subjects = {item["name"]: item["digest"] for item in statement(attested)["subject"]}
    expected = {path.name: path for path in attested.iterdir() if path.is_file()}
    for name in ("SHA256SUMS", "tensors.jsonl"):
        expected[f"provenance/{name}"] = attested / "provenance" / name
    assert subjects == {
        name: {"sha256": canonical.sha256_file(path)} for name, path in expected.items()
    }


def test_external_parameters_are_what_the_user_asked_for(attested):
    definition = statement(attested)["predicate"]["buildDefinition"]
    assert definition["externalParameters"] == {
        "source": "standin:x",
        "target": "qwen36-27b-vlm-mtp",
        "recipe": "build/variants/qwen36-27b-vlm-mtp.toml",
    }


def test_dependencies_have_recipe_locks_and_commit(attested):
    definition = statement(attested)["predicate"]["buildDefinition"]
    found = {item["name"]: item["digest"] for item in definition["resolvedDependencies"]}
    for name in ("build/variants/qwen36-27b-vlm-mtp.toml", "lockfiles/build.txt"):
        assert found[name] == {"sha256": canonical.sha256_file(checkout.ROOT / name)}
    assert re.fullmatch("[0-9a-f]{40}", found["hallmark"]["gitCommit"])


def test_step_records_match_their_digests(attested):
    byproducts = statement(attested)["predicate"]["runDetails"]["byproducts"]
    steps = [item for item in byproducts if item["name"].startswith("step/")]
    assert {item["name"] for item in steps} == {
        f"step/{name}" for name in ("fetch", "calibrate", "quantize", "graft", "dress", "verify")
    }
    for item in steps:
        text = canonical.dumps(item["annotations"])
        assert item["digest"] == {"sha256": canonical.sha256_text(text)}


def test_rehearsal_is_said(attested):
    builder = statement(attested)["predicate"]["runDetails"]["builder"]["id"]
    assert builder == "urn:hallmark:builder:rehearsal"
