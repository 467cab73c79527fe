"""Signing: all statements or none, of what lies there, by a key that goes nowhere else."""

import json
import subprocess
import sys

import pytest

from forge.core.errors import HallmarkError, ReleaseError, SigningError
from forge.manifest.names import BUNDLES, SIGNATURES
from forge.release import assemble, bundle, signing

COMMAND = (sys.executable, "-m", "forge", "sign")


def signatures(folder):
    return {name: (folder / name).read_bytes() for name in SIGNATURES if (folder / name).is_file()}


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


def test_signing_again_drops_a_model_signature_of_before(bench):
    signing.sign(bench.folder, bench.key, model_signature=True)
    signing.sign(bench.folder, bench.key)
    assert "provenance/model.sig" not in signatures(bench.folder)


def test_release_made_again_keeps_signatures_while_nothing_changed(bench):
    before = signatures(bench.folder)
    assemble.assemble(bench.folder)
    assert before == signatures(bench.folder)
    (bench / "README.md").write_text("another card", encoding="utf-8")
    assemble.assemble(bench.folder)
    assert before == signatures(bench.folder)
    (bench / "provenance/release.json").write_text("{}", encoding="utf-8")
    assemble.assemble(bench.folder)
    assert signatures(bench.folder) == {}


def test_what_the_manifest_lists_must_be_there(bench):
    (bench / "provenance/quantization_error.jsonl").unlink()
    with pytest.raises(ReleaseError, match=r"quantization_error\.jsonl: has sha256 nothing"):
        assemble.assemble(bench.folder)


@pytest.mark.parametrize("name", ["model-mtp.safetensors", "config.json"])
def test_checkpoint_that_is_not_what_was_built_is_not_released(bench, name):
    """Otherwise a file that rotted in the store would be signed."""
    bench.flip(name, 5)
    with pytest.raises(ReleaseError, match=f"{name}: has sha256 .* is not what was built"):
        assemble.assemble(bench.folder)


def test_a_calibration_record_that_is_not_what_was_built_is_not_released(bench):
    """Its last value; a header that claims to be larger than the file is told as that."""
    name = "provenance/calibration.safetensors"
    bench.flip(name, -1)
    with pytest.raises(ReleaseError, match=f"{name}: has sha256 .* is not what was built"):
        assemble.assemble(bench.folder)
    bench.flip(name, 5)
    with pytest.raises(HallmarkError, match="the header claims"):
        assemble.assemble(bench.folder)


@pytest.mark.parametrize("name", ["key.pem", "provenance/key", ".DS_Store"])
def test_what_is_no_file_of_the_build_is_not_released(bench, name):
    (bench / name).write_text("x", encoding="utf-8")
    with pytest.raises(ReleaseError, match="is no file of this build. Move it elsewhere"):
        assemble.assemble(bench.folder)
