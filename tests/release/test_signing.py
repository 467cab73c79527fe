"""Signing: all statements or none, of what lies there, by a key that goes nowhere else."""

import base64
import json
import os
import subprocess
import sys

import pytest
from assets.verify.bench import without_errors

from forge.core import console
from forge.core.errors import ReleaseError, SigningError
from forge.manifest.names import BUNDLES, SIGNATURES
from forge.release import assemble, bundle, card, keys, signing

COMMAND = (sys.executable, "-m", "forge", "sign")


def signatures(folder):
    return {name: (folder / name).read_bytes() for name in SIGNATURES if (folder / name).is_file()}


def content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_bundles_are_of_sigstore(bench):
    for name, target in BUNDLES.items():
        data = (bench / f"provenance/{target}").read_bytes()
        value = json.loads(data)
        assert value["mediaType"] == "application/vnd.dev.sigstore.bundle.v0.3+json"
        assert value["dsseEnvelope"]["payloadType"] == "application/vnd.in-toto+json"
        signed = bundle.payload(bundle.read(data, target))
        assert signed == (bench / f"provenance/{name}").read_bytes()


def test_the_key_goes_nowhere(bench, good, demands):
    """Neither into the release nor the store, nor into what is printed."""
    done = subprocess.run(
        [*COMMAND, bench.folder, "--key", bench.key],
        capture_output=True, encoding="utf-8", check=True,
    )  # fmt: skip
    lines = bench.key.read_text(encoding="utf-8").splitlines()[1:-1]
    store = good.key.parent / "store"
    files = [path for root in (bench.folder, store) for path in root.rglob("*") if path.is_file()]
    assert len(files) > 40
    for line in lines:
        assert line not in done.stdout + done.stderr
        assert not [path for path in files if line.encode() in path.read_bytes()]
    assert demands.trust.key.keyid in done.stderr


def test_key_in_the_release_is_refused(bench):
    inside = bench / "key"
    inside.write_bytes(bench.key.read_bytes())
    with pytest.raises(SigningError, match="lies in the release that it is to sign"):
        signing.sign(bench.folder, inside)


def test_changed_folder_is_not_signed(bench):
    before = signatures(bench.folder)
    bench.flip("config.json", 5)
    with pytest.raises(ReleaseError, match="was changed since it was made a release"):
        signing.sign(bench.folder, bench.key)
    assert before == signatures(bench.folder)


def test_build_that_is_no_release(bench):
    (bench / "provenance/release.json").unlink()
    with pytest.raises(ReleaseError, match="so it is no release yet") as told:
        signing.sign(bench.folder, bench.key)
    assert (told.value.remedy, told.value.facts) == ("not-released", {"folder": bench.folder})


def test_no_key_and_no_identity(bench, monkeypatch):
    for name in ("SIGSTORE_ID_TOKEN", "GITHUB_ACTIONS", "GITLAB_CI", "BUILDKITE", "CIRCLECI"):
        monkeypatch.delenv(name, raising=False)
    done = subprocess.run(
        [*COMMAND, bench.folder], capture_output=True, encoding="utf-8", check=False,
        env={"PATH": "/usr/bin:/bin", "HOME": str(bench.folder.parent)},
    )  # fmt: skip
    assert done.returncode == 40
    assert "no key is given and no identity is at hand" in done.stderr
    assert "help: Name a private key with `--key <file>`" in done.stderr


def test_token_that_is_none(bench, monkeypatch):
    monkeypatch.setenv("SIGSTORE_ID_TOKEN", "no token")
    with pytest.raises(SigningError, match="the identity cannot be used"):
        signing.sign(bench.folder, None)


def test_model_signature_is_checked_by_its_own_tool(bench, demands):
    """OpenSSF's `model_signing` verifies it, and verify-release does."""
    from assay.release import verify

    signing.sign(bench.folder, bench.key, model_signature=True)
    verify.verify(bench.folder, demands, lambda _: None)
    command = [
        sys.executable, "-m", "model_signing", "verify", "key", bench.folder,
        "--signature", bench / "provenance/model.sig",
        "--public_key", bench.key.with_name("key.pub"), "--ignore-paths", bench / "provenance",
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    bench.flip("config.json", 5)
    assert subprocess.run(command, check=False, capture_output=True).returncode != 0


def test_signing_again_drops_a_model_signature_of_before(bench, monkeypatch):
    """And says so."""
    said = []
    signing.sign(bench.folder, bench.key, model_signature=True)
    monkeypatch.setattr(console, "say", said.append)
    signing.sign(bench.folder, bench.key)
    assert said[0] == f"{bench / 'provenance/model.sig'} is removed, since it was not made again"
    assert "provenance/model.sig" not in signatures(bench.folder)


def test_release_made_again_keeps_signatures_while_nothing_changed(bench):
    before = signatures(bench.folder)
    assemble.assemble(bench.folder)
    assert before == signatures(bench.folder)
    (bench / "README.md").write_text("another card", encoding="utf-8")
    assemble.assemble(bench.folder)
    assert before == signatures(bench.folder)
    (bench / "provenance/release.json").write_text("{}", encoding="utf-8")
    assemble.assemble(bench.folder, replace=True)
    assert signatures(bench.folder) == {}


def test_signatures_are_not_lost_unasked(bench, monkeypatch):
    """Of a release whose files would change; the error names what would be lost."""
    said = []
    monkeypatch.setattr(card, "notice", lambda _: "another notice")
    monkeypatch.setattr(console, "say", said.append)
    before = content(bench.folder)
    with pytest.raises(
        ReleaseError, match="is signed .provenance/provenance.sigstore.json, "
    ) as told:
        assemble.assemble(bench.folder)
    assert told.value.remedy == "replace-signed"
    assert before == content(bench.folder)
    assemble.assemble(bench.folder, replace=True)
    assert signatures(bench.folder) == {}
    assert (bench / "NOTICE").read_text(encoding="utf-8") == "another notice"
    assert "release.sigstore.json signed other files and are removed. Sign again." in said[0]


def test_what_the_manifest_lists_must_be_there(bench):
    (bench / "provenance/quantization_error.jsonl").unlink()
    with pytest.raises(ReleaseError, match=r"quantization_error\.jsonl: has sha256 nothing"):
        assemble.assemble(bench.folder)


def test_release_made_again_changes_nothing(bench):
    """Its folder is the same one, not an equal one. With a hard link it is not, but signed."""
    before, inode = content(bench.folder), bench.folder.stat().st_ino
    assemble.assemble(bench.folder)
    assert inode == bench.folder.stat().st_ino
    for name in ("config.json", "provenance/provenance.sigstore.json", "NOTICE"):
        (bench.folder.parent / "linked").unlink(missing_ok=True)
        (bench.folder.parent / "linked").hardlink_to(bench / name)
        assemble.assemble(bench.folder)
        assert (bench / name).stat().st_nlink == 1
        assert before == content(bench.folder)


@pytest.mark.parametrize(
    "name",
    [
        "model-mtp.safetensors",
        "config.json",
        "provenance/tensors.jsonl",
        "provenance/quantization_error.jsonl",
    ],
)
def test_checkpoint_that_is_not_what_was_built_is_not_released(bench, name):
    """Otherwise a file that rotted in the store would be signed, or one that was cut."""
    bench.flip(name, 5)
    with pytest.raises(ReleaseError, match=f"{name}: has sha256 .* is not what was built"):
        assemble.assemble(bench.folder)
    (bench / name).unlink()
    (bench / name).touch()
    with pytest.raises(ReleaseError, match="is not what was built"):
        assemble.assemble(bench.folder)


def test_a_calibration_record_that_is_not_what_was_built_is_not_released(bench):
    """Its last value, or its header."""
    name = "provenance/calibration.safetensors"
    for offset in (-1, 5):
        bench.flip(name, offset)
        with pytest.raises(ReleaseError, match=f"{name}: has sha256 .* is not what was built"):
            assemble.assemble(bench.folder)


def test_errors_that_the_manifest_does_not_have(bench):
    bench.restate(without_errors)
    with pytest.raises(ReleaseError, match="quantization_error.jsonl: is not in provenance.json"):
        assemble.assemble(bench.folder)


@pytest.mark.parametrize("name", ["key.pem", "provenance/key", ".DS_Store", "config.json"])
def test_what_is_no_file_of_the_build_is_not_released(bench, name):
    """Nor is a link that leads nowhere, or a pipe; none of them is lost by signing, either."""
    (bench / name).unlink(missing_ok=True)
    if name == "config.json":
        os.mkfifo(bench / name)
    elif name == ".DS_Store":
        (bench / name).symlink_to("nowhere")
    else:
        (bench / name).write_text("x", encoding="utf-8")
    kind = "is a (pipe|symbolic link); a release has regular files only"
    with pytest.raises(ReleaseError, match=f"was changed since it was made a release|{kind}"):
        signing.sign(bench.folder, bench.key)
    with pytest.raises(ReleaseError, match=f"is no file of this build. Move it elsewhere|{kind}"):
        assemble.assemble(bench.folder)


def test_signatures_are_made_in_the_one_form_that_counts(good):
    """With the lower value of s; half of the signatures that the library makes have the other."""
    signer = keys.signer(good.key)
    for number in range(20):
        made = json.loads(bundle.by_key(str(number).encode(), signer))
        (signature,) = made["dsseEnvelope"]["signatures"]
        assert keys.is_lower(base64.b64decode(signature["sig"]))
    assert not keys.is_lower(b"")
    assert not keys.is_lower(b"\x30\x06\x02\x01\x01\x02\x01\x01x")
