"""Signs a release: a Sigstore bundle beside each of its statements, all of them or none.

With a key the bundle names it and nothing else is contacted. Without one, sigstore-python signs
with the identity that is at hand (https://docs.sigstore.dev): a short-lived certificate for it,
and an entry in the public transparency log.
"""

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from forge.core import console, placing
from forge.core.errors import SigningError
from forge.core.filesystem import real
from forge.core.libraries import library
from forge.manifest import document
from forge.manifest.model_signature import ModelSignature, of_model, unlike
from forge.manifest.names import BUNDLES, MODEL_SIGNATURE, PROVENANCE
from forge.release import assemble, bundle, keys
from forge.release.folder import changing

TOKEN = "SIGSTORE_ID_TOKEN"  # noqa: S105 - the variable's name
Sign = Callable[[bytes], bytes]


def sign(folder: Path, key: Path | None, *, model_signature: bool = False) -> None:
    """Signs the statements of a release, and on request the model as OpenSSF does.

    The new signatures are there at once, in place of all older ones.

    Raises:
        SigningError: there is no usable key or identity, or the key lies in the release.
        ReleaseError: the folder is no release, or was changed since it became one.
        FileSystemError: the system refused. On any error the folder is what it was.
    """
    if key is not None and real(key).is_relative_to(real(folder)):
        raise SigningError(f"{key}: lies in the release that it is to sign. Move it elsewhere.")
    if model_signature and key is None:
        raise SigningError(
            "the model signature is made with a key, and none is given.", remedy="no-key"
        )
    make, who = _by_key(key) if key else _by_identity()
    with changing(folder, "is not signed") as target:
        names = assemble.require_current(target)
        provenance = target / PROVENANCE
        bundles = {
            name: make((provenance / statement).read_bytes()) for statement, name in BUNDLES.items()
        }

        def fill(fresh: Path) -> None:
            placing.keep(names, target, fresh)
            for name, data in bundles.items():
                (fresh / PROVENANCE / name).write_bytes(data)
            if model_signature and key:
                # The signature has the folder's name, so it is that of the one which is there.
                digests = {name: file.sha256 for name, file in names.items()}
                _sign_model(target, digests, key, fresh / PROVENANCE / MODEL_SIGNATURE)

        before = (provenance / MODEL_SIGNATURE).exists()
        placing.put(target, fill)
    if before and not model_signature:
        console.say(f"{provenance / MODEL_SIGNATURE} is removed, since it was not made again")
    console.say(f"{target} is signed by {who}")


def _by_key(key: Path) -> tuple[Sign, str]:
    signer = keys.signer(key)
    return lambda payload: bundle.by_key(payload, signer), f"key {signer.public_key.keyid}"


def _by_identity() -> tuple[Sign, str]:
    """Signs with an identity token: that of SIGSTORE_ID_TOKEN, or of the CI job that this is."""
    from sigstore import dsse, oidc, sign
    from sigstore.models import ClientTrustConfig

    with library("sigstore", SigningError, "the identity cannot be used"):
        token = os.environ.get(TOKEN) or oidc.detect_credential()
        if token is None:
            raise SigningError(
                f"no key is given and no identity is at hand: {TOKEN} is not set, and this is no "
                "CI job that has one.",
                remedy="no-identity",
            )
        identity = oidc.IdentityToken(token)
        config = ClientTrustConfig.production()
        context = sign.SigningContext.from_trust_config(config)

    def make(payload: bytes) -> bytes:
        what = "a statement is not signed"
        with library("sigstore", SigningError, what), context.signer(identity) as signer:
            return bundle.from_library(signer.sign_dsse(dsse.Statement(payload)).to_json())

    return make, identity.identity


def _sign_model(folder: Path, files: Mapping[str, str], key: Path, signature: Path) -> None:
    """The OpenSSF model signature: every file outside `provenance/`, in file mode.

    Args:
        folder: the release.
        files: the sha256 of each of its files, by path. What was signed is compared with it.
        key: the private key.
        signature: where the signature goes.

    Raises:
        SigningError: the library refused, or signed other files.
    """
    from model_signing import hashing, signing

    secret = keys.password()
    hashed = hashing.Config().use_file_serialization()
    hashed.set_ignored_paths(paths=[PROVENANCE])
    # Its own walk takes a folder that it may not read for an empty one.
    hashed.hash = partial(hashed.hash, files_to_hash=[folder / name for name in of_model(files)])
    what = f"{folder}: the model is not signed"
    with library("model_signing", SigningError, what):
        config = signing.Config().set_hashing_config(hashed)
        config.use_elliptic_key_signer(
            private_key=key, password=secret.decode() if secret else None
        ).sign(folder, signature)
        made = bundle.of_model(signature.read_text(encoding="utf-8"))
    signed = bundle.payload(bundle.read(made, MODEL_SIGNATURE))
    stated = document.parse(ModelSignature, signed, MODEL_SIGNATURE)
    if (wrong := unlike(stated.files, files)) is not None:
        raise SigningError(f"{what}: {wrong}")
    signature.write_bytes(made)
