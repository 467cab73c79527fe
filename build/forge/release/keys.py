"""Signing keys: ECDSA P-256 in PEM files, named by the digest of their public half.

That name, the sha256 of the public key's DER form, is what `openssl pkey -pubin -outform DER` and
`sha256sum` give. A private key is read to sign and goes nowhere else.
"""

import os
from hashlib import sha256
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from securesystemslib.signer import CryptoSigner, SSlibKey

from forge.core.errors import SigningError

PASSWORD = "HALLMARK_KEY_PASSWORD"  # noqa: S105 - the variable's name
OTHERS = 0o077


def generate(path: Path) -> str:
    """Writes a new private key at `path` for its owner alone, and `<path>.pub`.

    It is encrypted if the environment has a password in HALLMARK_KEY_PASSWORD.

    Returns:
        The key's name.

    Raises:
        SigningError: one of the files exists, or cannot be written.
    """
    key = generate_private_key(SECP256R1())
    secret = password()
    encryption = BestAvailableEncryption(secret) if secret else NoEncryption()
    public = path.with_name(f"{path.name}.pub")
    try:
        for file, mode, data in (
            (path, 0o600, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)),
            (public, 0o644, _public_bytes(key.public_key(), Encoding.PEM)),
        ):
            with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as out:
                out.write(data)
    except OSError as error:
        raise SigningError(
            f"{error.filename or path}: cannot be written ({error.strerror}); a key is never "
            "replaced.",
            remedy="key-exists",
        ) from error
    return _name(key.public_key())


def signer(path: Path) -> CryptoSigner:
    """The signer of a private key file.

    Raises:
        SigningError: it is no private key of ECDSA P-256, the password is wrong, or others than
            its owner may read it.
    """
    data = _read(path)
    if path.stat().st_mode & OTHERS:
        raise SigningError(f"{path}: others may read this private key. Run `chmod 600 {path}`.")
    try:
        key = load_pem_private_key(data, password())
    except (ValueError, TypeError) as error:
        # The library's message says nothing of the key but that it cannot be read.
        raise SigningError(
            f"{path}: is no private key in PEM, or {PASSWORD} is not its password.",
            remedy="no-private-key",
        ) from error
    if not isinstance(key, EllipticCurvePrivateKey) or not isinstance(key.curve, SECP256R1):
        raise SigningError(f"{path}: is no key of ECDSA P-256.", remedy="no-private-key")
    return CryptoSigner(key, _key(key.public_key()))


def public(path: Path) -> SSlibKey:
    """The public key of a PEM file; its `keyid` is the key's name.

    Raises:
        SigningError: it is no public key of ECDSA P-256.
    """
    try:
        key = load_pem_public_key(_read(path))
    except ValueError as error:
        raise SigningError(f"{path}: is no public key in PEM.") from error
    if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP256R1):
        raise SigningError(f"{path}: is no key of ECDSA P-256.")
    return _key(key)


def password() -> bytes | None:
    """What private keys are encrypted with, if anything."""
    return os.environ.get(PASSWORD, "").encode() or None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SigningError(f"{path}: cannot be read ({error.strerror}).") from error


def _key(key: EllipticCurvePublicKey) -> SSlibKey:
    return SSlibKey.from_crypto(key, keyid=_name(key))


def _name(key: EllipticCurvePublicKey) -> str:
    return sha256(_public_bytes(key, Encoding.DER)).hexdigest()


def _public_bytes(key: EllipticCurvePublicKey, encoding: Encoding) -> bytes:
    return key.public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo)
