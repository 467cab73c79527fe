"""Sigstore bundles v0.3: one DSSE envelope with one signature over an in-toto statement.

Format: https://docs.sigstore.dev/about/bundle. The models are sigstore's own; beyond them a bundle
must be spelled as Hallmark spells it, canonical JSON and a newline, so that no byte of it can be
changed without being noticed.
"""

import base64
import json

from pydantic import ValidationError
from securesystemslib.dsse import Envelope
from securesystemslib.signer import CryptoSigner
from sigstore_models.bundle.v1 import Bundle

from forge.core import canonical
from forge.core.errors import ReleaseError
from forge.manifest.statement import MEDIA_TYPE
from forge.release import keys

BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"


def by_key(payload: bytes, signer: CryptoSigner) -> bytes:
    """The bundle of a statement, signed with a key; the verifier is told the key's name."""
    envelope = Envelope(payload, MEDIA_TYPE, {})
    envelope.sign(signer)
    for one in envelope.signatures.values():
        one.signature = keys.lower(bytes.fromhex(one.signature)).hex()
    return spell(
        {
            "mediaType": BUNDLE_TYPE,
            "verificationMaterial": {
                "publicKey": {"hint": signer.public_key.keyid},
                "tlogEntries": [],
            },
            "dsseEnvelope": envelope.to_dict(),
        }
    )


def spell(bundle: object) -> bytes:
    """A bundle's bytes."""
    return (canonical.dumps(bundle) + "\n").encode()


def read(data: bytes, where: str) -> Bundle:
    """The bundle that `data` spells; its envelope is there, with one signature.

    Raises:
        ReleaseError: it is anything else; `where` names it in the message.
    """
    try:
        # Base64 that decodes in more than one way, keys that stand twice, spaces: all of these are
        # read, and none of them survives being spelled again.
        bundle = Bundle.from_json(data)
        spelled = spell(bundle.to_dict())
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"]) or "the whole file"
        raise ReleaseError(f"{where}: is no Sigstore bundle: {key}: {first['msg']}.") from error
    except ValueError as error:
        raise ReleaseError(f"{where}: is no Sigstore bundle: {error}.") from error
    if spelled != data:
        raise ReleaseError(f"{where}: is not in canonical JSON, so it was changed since.")
    if bundle.media_type != BUNDLE_TYPE:
        raise ReleaseError(f"{where}: is a bundle of type {bundle.media_type}, not {BUNDLE_TYPE}.")
    envelope = bundle.dsse_envelope
    if envelope is None or envelope.payload_type != MEDIA_TYPE:
        found = "no envelope" if envelope is None else f"a payload of {envelope.payload_type!r}"
        raise ReleaseError(f"{where}: has {found}; expected an envelope with {MEDIA_TYPE}.")
    if len(envelope.signatures) != 1:
        raise ReleaseError(f"{where}: has {len(envelope.signatures)} signatures, expected one.")
    return bundle


def payload(bundle: Bundle) -> bytes:
    """The statement that a bundle from `read` holds; nobody has checked its signature yet."""
    envelope = bundle.dsse_envelope
    return envelope.payload if envelope else b""


def from_library(text: str) -> bytes:
    """A bundle as sigstore writes it, in our spelling."""
    return spell(json.loads(text))


def of_model(text: str) -> bytes:
    """A bundle as model_signing writes it, in our spelling, its signature in the form that counts.

    That library checks signatures in both forms.
    """
    made = Bundle.from_json(text).to_dict()
    for one in made["dsseEnvelope"]["signatures"]:
        one["sig"] = base64.b64encode(keys.lower(base64.b64decode(one["sig"]))).decode()
    return spell(made)
