"""Whom a verifier trusts: the holder of a key, or an identity that sigstore has certified.

They are named by a policy file, or where that names nobody, beside it.
"""

from collections.abc import Mapping, Sequence
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
from forge.manifest.policy import Policy
from forge.manifest.trusted import Holder
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
    """The holder of a key, with the name that a policy has for them."""

    key: SSlibKey
    name: str = ""

    @property
    def who(self) -> str:
        """The key's name, and its holder's."""
        return f"key {self.key.keyid}{f' ({self.name})' if self.name else ''}"

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
        """A model signature is made with a key, never by an identity."""
        del data
        raise ReleaseError(
            f"{where}: is made with a key, so no identity can vouch for it.", remedy="signed-by-key"
        )


@dataclass(frozen=True, kw_only=True)
class AnyOf:
    """The holders of several keys, one of whom has signed a release, all of it."""

    keys: Sequence[Key]


def signer(trusted: Trust | AnyOf, data: bytes, where: str) -> Trust:
    """The one whose signatures count for a release, by the key that its first bundle names.

    Raises:
        ReleaseError: the bundle names none of several keys.
    """
    if not isinstance(trusted, AnyOf):
        return trusted
    material = bundles.read(data, where).verification_material
    named = material.public_key.hint if material.public_key else "no key"
    found = next((one for one in trusted.keys if one.key.keyid == named), None)
    if found is None:
        known = ", ".join(one.who for one in trusted.keys)
        raise ReleaseError(
            f"{where}: names {named}, which is not one of the policy's keys: {known}."
        )
    return found


def by_key(path: Path) -> Key:
    """Trust in the holder of a public key file's key.

    Raises:
        SigningError: it is no public key.
    """
    return Key(key=keys.public(path))


def publisher(
    policy: Policy,
    *,
    key: Path | None = None,
    identity: str | None = None,
    issuer: str | None = None,
    unsigned: bool = False,
) -> Trust | AnyOf | None:
    """Who must have signed: one of the policy's keys, or whom options name if it has none.

    Beside a policy that has keys, an option can only choose one of them.

    Returns:
        None if nobody is to vouch for the release.

    Raises:
        ReleaseError: nobody is named, two are, or one whom the policy does not know.
        SigningError: a key is no public key.
    """
    given = [key is not None, identity is not None and issuer is not None, unsigned]
    if sum(given) > 1 or not (any(given) or policy.keys):
        raise ReleaseError(
            "whom to trust must be named, and once: the publisher's key, the identity that signed, "
            "a policy with keys, or nobody.",
            remedy="whom-to-trust",
        )
    if policy.keys:
        if unsigned or identity is not None or issuer is not None:
            raise ReleaseError(
                "the policy names the publisher's keys, and no option loosens a policy. Name one "
                "of these keys, or no one."
            )
        return AnyOf(keys=_chosen(policy.keys, [key] if key else [], "keys"))
    if key is not None:
        return by_key(key)
    if identity is not None and issuer is not None:
        return Identity(identity=identity, issuer=issuer)
    return None


def rebuilders(policy: Policy, paths: Sequence[Path]) -> Sequence[Key]:
    """The keys of those who count as rebuilders: the policy's, or if it has none, of key files.

    Raises:
        ReleaseError: the policy has keys, and a file has none of them.
        SigningError: a key is no public key.
    """
    if policy.rebuilders:
        return _chosen(policy.rebuilders, paths, "rebuilders")
    return [by_key(path) for path in paths]


def _chosen(holders: Sequence[Holder], paths: Sequence[Path], table: str) -> list[Key]:
    """The keys of a policy's table; where key files are given, those that they have."""
    known = [_held(one, f"{table}.{number}") for number, one in enumerate(holders)]
    chosen = {path: keys.public(path).keyid for path in paths}
    for path, keyid in chosen.items():
        if keyid not in {one.sha256 for one in holders}:
            raise ReleaseError(
                f"{path}: has key {keyid}, which is not one of the policy's {table}, and no option "
                "loosens a policy."
            )
    return [one for one in known if not chosen or one.key.keyid in chosen.values()]


def _held(holder: Holder, where: str) -> Key:
    key = keys.parse_public(holder.pem.encode(), f"the policy's {where}.pem")
    if key.keyid != holder.sha256:
        raise ReleaseError(
            f"the policy's {where}: its pem is key {key.keyid}, its sha256 says {holder.sha256}."
        )
    return Key(key=key, name=holder.name)
