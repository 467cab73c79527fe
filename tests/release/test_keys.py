"""Keys: made for their owner alone, named as openssl and sha256sum name them, never shown."""

import os
import subprocess
from hashlib import sha256

import pytest

from forge.core.errors import SigningError
from forge.release import keys


@pytest.fixture
def key(tmp_path):
    keys.generate(tmp_path / "key")
    return tmp_path / "key"


def test_private_key_is_for_its_owner_alone(key):
    assert key.stat().st_mode & 0o777 == 0o600
    assert key.read_text(encoding="utf-8").startswith("-----BEGIN PRIVATE KEY-----")


def test_name_is_what_openssl_gives(key):
    """`openssl pkey -pubin -outform DER | sha256sum`."""
    der = subprocess.run(
        ["openssl", "pkey", "-pubin", "-in", f"{key}.pub", "-outform", "DER"],
        capture_output=True, check=True,
    ).stdout  # fmt: skip
    assert sha256(der).hexdigest() == keys.public(key.with_name("key.pub")).keyid
    assert sha256(der).hexdigest() == keys.signer(key).public_key.keyid


def test_key_of_openssl_is_taken(tmp_path):
    path = tmp_path / "made"
    curve = ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]
    subprocess.run(["openssl", "genpkey", *curve, "-out", path], check=True, capture_output=True)
    path.chmod(0o600)
    assert keys.signer(path).public_key.scheme == "ecdsa-sha2-nistp256"


def test_key_is_never_replaced(key):
    before = key.read_bytes()
    with pytest.raises(SigningError, match="a key is never replaced"):
        keys.generate(key)
    assert before == key.read_bytes()


def test_key_that_others_may_read(key):
    key.chmod(0o640)
    with pytest.raises(SigningError, match="others may read this private key"):
        keys.signer(key)


def test_encrypted_key(tmp_path, monkeypatch):
    monkeypatch.setenv(keys.PASSWORD, "a horse")
    keys.generate(tmp_path / "key")
    assert b"ENCRYPTED" in (tmp_path / "key").read_bytes()
    assert keys.signer(tmp_path / "key").public_key.keyid
    for wrong in ("a mule", ""):
        monkeypatch.setenv(keys.PASSWORD, wrong)
        with pytest.raises(SigningError, match="HALLMARK_KEY_PASSWORD is not its password") as told:
            keys.signer(tmp_path / "key")
        assert "mule" not in str(told.value)


@pytest.mark.parametrize("text", ["", "no key", "-----BEGIN PRIVATE KEY-----\nAAAA\n"])
def test_what_is_no_key(tmp_path, text):
    (tmp_path / "key").write_text(text, encoding="utf-8")
    (tmp_path / "key").chmod(0o600)
    with pytest.raises(SigningError, match="is no private key in PEM"):
        keys.signer(tmp_path / "key")
    with pytest.raises(SigningError, match="is no public key in PEM"):
        keys.public(tmp_path / "key")


@pytest.mark.parametrize("curve", ["P-384", "secp256k1"])
def test_key_of_another_curve(tmp_path, curve):
    path = tmp_path / "key"
    options = ["-algorithm", "EC", "-pkeyopt", f"ec_paramgen_curve:{curve}"]
    subprocess.run(["openssl", "genpkey", *options, "-out", path], check=True, capture_output=True)
    path.chmod(0o600)
    subprocess.run(
        ["openssl", "pkey", "-in", path, "-pubout", "-out", f"{path}.pub"],
        check=True, capture_output=True,
    )  # fmt: skip
    for read, file in ((keys.signer, path), (keys.public, path.with_name("key.pub"))):
        with pytest.raises(SigningError, match="is no key of ECDSA P-256"):
            read(file)


def test_key_of_a_curve_that_no_library_knows(tmp_path):
    path = tmp_path / "key"
    options = ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:wap-wsg-idm-ecid-wtls9"]
    subprocess.run(["openssl", "genpkey", *options, "-out", path], check=True, capture_output=True)
    path.chmod(0o600)
    subprocess.run(
        ["openssl", "pkey", "-in", path, "-pubout", "-out", f"{path}.pub"],
        check=True, capture_output=True,
    )  # fmt: skip
    for read, file in ((keys.signer, path), (keys.public, path.with_name("key.pub"))):
        with pytest.raises(SigningError, match="is no p"):
            read(file)


def test_private_key_is_no_public_key(key):
    with pytest.raises(SigningError, match="is no public key"):
        keys.public(key)


def test_a_pipe_is_no_key(tmp_path):
    """Nobody writes to it, so reading it would wait for ever."""
    os.mkfifo(tmp_path / "key")
    with pytest.raises(SigningError, match="key: is no file"):
        keys.generate(tmp_path / "key")
    assert not (tmp_path / "key.pub").exists()
