"""Whom a verifier trusts: the holder of a key, or an identity that sigstore has certified."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import Signature, SSlibKey
from sigstore_models.bundle.v1 import Bundle

from forge.core import canonical
from forge.core.errors import ReleaseError
from forge.core.libraries import library
from forge.manifest import document
from forge.manifest.model_signature import ModelSignature
from forge.release import bundle as bundles
from forge.release import keys


class Trust(Protocol):
    """One whose signature counts."""

    @property
    def who(self) -> str:
        """Who it is."""

    def check(self, data: bytes, where: str) -> bytes:
        """The statement of a bundle that it has signed, exactly the bytes that were signed.

        Raises:
            ReleaseError: it has not; the message begins with `where`.
        """

    def check_model(self, data: bytes, where: str) -> Mapping[str, str]:
        """The files of an OpenSSF model signature that it has signed: sha256 by path.

        Raises:
            ReleaseError: it has not; the message begins with `where`.
        """


@dataclass(frozen=True, kw_only=True)
class Key:
    """The holder of a key."""

    path: Path
    key: SSlibKey

    @property
    def who(self) -> str:
        """The key's name."""
        return f"key {self.key.keyid}"

    def check(self, data: bytes, where: str) -> bytes:
        """As `Trust.check`; the bundle must name this key in both places, and no log."""
        bundle = bundles.read(data, where)
        return self._signed(bundle, where, self.key.keyid, self.key.keyid)

    def check_model(self, data: bytes, where: str) -> Mapping[str, str]:
        """As `Trust.check_model`; model_signing names a key by its PEM form, and only once."""
        bundle = bundles.read(data, where)
        named = canonical.sha256_text(self.key.keyval["public"])
        return document.parse(ModelSignature, self._signed(bundle, where, named, ""), where).files

    def _signed(self, bundle: Bundle, where: str, hint: str, keyid: str) -> bytes:
        """What a bundle has signed, by this key, which it must name so."""
        envelope, material = bundle.dsse_envelope, bundle.verification_material
        if envelope is None or material.public_key is None:
            raise ReleaseError(f"{where}: was not signed with a key.", remedy="signed-by-identity")
        if material.tlog_entries or material.timestamp_verification_data:
            raise ReleaseError(f"{where}: has log entries or timestamps, which no key vouches for.")
        (signature,) = envelope.signatures
        for named, expected in ((material.public_key.hint, hint), (signature.keyid, keyid)):
            if named != expected:
                raise ReleaseError(f"{where}: names key {named}, the key given is {expected}.")
        signed = Envelope(
            envelope.payload,
            envelope.payload_type,
            {self.key.keyid: Signature(self.key.keyid, signature.sig.hex())},
        )
        try:
            signed.verify([self.key], 1)
        except VerificationError as error:
            raise ReleaseError(
                f"{where}: the signature is not by key {self.key.keyid} over this statement."
            ) from error
        if not keys.is_lower(signature.sig):
            raise ReleaseError(
                f"{where}: the signature is a second form of the one that was made (its s is not "
                "the lower one), so it was changed since."
            )
        return envelope.payload


@dataclass(frozen=True, kw_only=True)
class Identity:
    """An identity, as an issuer of tokens knows it."""

    identity: str
    issuer: str

    @property
    def who(self) -> str:
        """The identity and who vouches for it."""
        return f"{self.identity} ({self.issuer})"

    def check(self, data: bytes, where: str) -> bytes:
        """As `Trust.check`; sigstore-python checks certificate, log entry and signature."""
        from sigstore.models import Bundle as Signed
        from sigstore.verify import Verifier, policy

        bundle: Bundle = bundles.read(data, where)
        if bundle.verification_material.certificate is None:
            raise ReleaseError(f"{where}: was not signed by an identity.", remedy="signed-by-key")
        # Beyond its own errors, the library lets those of its HTTP client and parsers through.
        with library("sigstore", ReleaseError, f"{where}: {self.who} did not sign this"):
            _, payload = Verifier.production().verify_dsse(
                Signed.from_json(data), policy.Identity(identity=self.identity, issuer=self.issuer)
            )
            return payload

    def check_model(self, data: bytes, where: str) -> Mapping[str, str]:
        """A model signature is made with a key, so there is none of an identity."""
        del data
        raise ReleaseError(
            f"{where}: is made with a key, so no identity can vouch for it.", remedy="signed-by-key"
        )


def by_key(path: Path) -> Key:
    """Trust in the holder of a public key file's key.

    Raises:
        SigningError: it is no public key.
    """
    return Key(path=path, key=keys.public(path))
