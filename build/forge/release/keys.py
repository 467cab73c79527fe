"""Signing keys: ECDSA P-256 in PEM files, named by the digest of their public half.

That name, the sha256 of the public key's DER form, is what `openssl pkey -pubin -outform DER` and
`sha256sum` give. A private key is read to sign and goes nowhere else.
"""

import os
from hashlib import sha256
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
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

from forge.core import console, filesystem, placing
from forge.core.errors import SigningError

PASSWORD = "HALLMARK_KEY_PASSWORD"  # noqa: S105 - the variable's name
OTHERS = 0o077
MOST = 1 << 16  # bytes of a key's file
# The order of P-256. Where (r, s) is a signature, (r, ORDER - s) is another one of the same bytes.
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def generate(path: Path) -> str:
    """Writes a new private key at `path` for its owner alone, and `<path>.pub`.

    It is encrypted if the environment has a password in HALLMARK_KEY_PASSWORD. A private key that
    is there without its public half, as a killed process may leave it, is given that.

    Returns:
        The key's name.

    Raises:
        SigningError: the key exists, or what is at `path` alone is no private key.
        FileSystemError: the system refused one of the files.
    """
    public = path.with_name(f"{path.name}.pub")
    for one in (path, public):
        placing.clear(one)  # a copy of the private key, at worst
    try:
        placing.require_none(public)
        if os.path.lexists(path):
            if not path.is_file():  # a pipe would be waited for
                raise SigningError(f"{path}: is no file. Name one that is not there yet.")
            key = _private(path)
            console.say(f"{path} is there without its public half, which is written now")
        else:
            key = generate_private_key(SECP256R1())
            placing.write(path, _private_bytes(key), mode=0o600, new=True)
        half = _public_bytes(key.public_key(), Encoding.PEM)
        placing.write(public, half, mode=0o644, new=True)
    except FileExistsError as error:
        raise SigningError(
            f"{error.filename}: {error.strerror}; a key is never replaced.", remedy="key-exists"
        ) from error
    return _name(key.public_key())


def signer(path: Path) -> CryptoSigner:
    """The signer of a private key file.

    Raises:
        SigningError: it is no private key of ECDSA P-256, the password is wrong, or others than
            its owner may read it.
    """
    key = _private(path)
    return CryptoSigner(key, _key(key.public_key()))


def _private(path: Path) -> EllipticCurvePrivateKey:
    data = _read(path)
    if path.stat().st_mode & OTHERS:
        raise SigningError(f"{path}: others may read this private key. Run `chmod 600 {path}`.")
    try:
        key = load_pem_private_key(data, password())
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        # The library's message says nothing of the key but that it cannot be read.
        raise SigningError(
            f"{path}: is no private key in PEM, or {PASSWORD} is not its password.",
            remedy="no-private-key",
        ) from error
    if not isinstance(key, EllipticCurvePrivateKey) or not isinstance(key.curve, SECP256R1):
        raise SigningError(f"{path}: is no key of ECDSA P-256.", remedy="no-private-key")
    return key


def public(path: Path) -> SSlibKey:
    """The public key of a PEM file; its `keyid` is the key's name.

    Raises:
        SigningError: it is no public key of ECDSA P-256.
    """
    return parse_public(_read(path), str(path))


def parse_public(data: bytes, where: str) -> SSlibKey:
    """As :func:`public`, of the bytes of what `where` names."""
    try:
        key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SigningError(f"{where}: is no public key in PEM, or of an unknown curve.") from error
    if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP256R1):
        raise SigningError(f"{where}: is no key of ECDSA P-256.")
    return _key(key)


def lower(signature: bytes) -> bytes:
    """The one form of a signature that counts: in DER, with the lower value of s."""
    r, s = decode_dss_signature(signature)
    return encode_dss_signature(r, min(s, ORDER - s))


def is_lower(signature: bytes) -> bool:
    """Whether a signature is in that form, so that no byte of it can be changed unnoticed."""
    try:
        return lower(signature) == signature
    except ValueError:
        return False


def password() -> bytes | None:
    """What private keys are encrypted with, if anything."""
    return os.environ.get(PASSWORD, "").encode() or None


def _read(path: Path) -> bytes:
    try:
        return filesystem.read_some(path, MOST)
    except OSError as error:
        raise SigningError(f"{path}: cannot be read ({error.strerror}).") from error


def _key(key: EllipticCurvePublicKey) -> SSlibKey:
    return SSlibKey.from_crypto(key, keyid=_name(key))


def _name(key: EllipticCurvePublicKey) -> str:
    return sha256(_public_bytes(key, Encoding.DER)).hexdigest()


def _private_bytes(key: EllipticCurvePrivateKey) -> bytes:
    secret = password()
    encryption = BestAvailableEncryption(secret) if secret else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


def _public_bytes(key: EllipticCurvePublicKey, encoding: Encoding) -> bytes:
    return key.public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo)
