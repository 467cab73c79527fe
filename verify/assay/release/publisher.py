"""Whether who signed may sign this release, and whether it is still to be used, by the policy.

Of a key, only what the policy says counts. When something was signed nobody can tell from a
signature by a key, so the times of a policy are held to the end of the build, which the holder of
the key states. Whoever has a key that is lost to others can state any time: revoke it without one.
"""

from assay.release.trust import Key, Trust
from forge.core.errors import ReleaseError
from forge.manifest.policy import Policy
from forge.manifest.provenance import Manifest
from forge.manifest.trusted import Holder, Revoked


def check(policy: Policy, signer: Trust | None, manifest: Manifest, digest: str) -> str:
    """Holds a release and who signed it to the tables of the policy.

    Args:
        policy: the policy.
        signer: who signed it; None if nobody was asked for.
        manifest: what it states.
        digest: the sha256 of the manifest's file.

    Returns:
        Whose key it is that may sign it; empty if the policy does not say.

    Raises:
        ReleaseError: it was recalled, or the key may not sign it.
    """
    if (recalled := policy.recall(digest)) is not None:
        latest = policy.successor(digest)
        instead = f" Use {latest} instead." if latest else ""
        raise ReleaseError(f"release {digest} was recalled: {recalled.reason}.{instead}")
    if not isinstance(signer, Key):
        return ""
    keyid, finished = signer.key.keyid, manifest.finished
    if why := unfit(policy, keyid, finished, digest):
        raise ReleaseError(f"{signer.who}: {why}; this release was built at {finished}.")
    known = next((one for one in policy.keys if one.sha256 == keyid), None)
    if known is None:
        return ""
    variant = manifest.asked.target
    if variant not in known.variants:
        raise ReleaseError(
            f"{signer.who}: may sign {', '.join(known.variants)}, and this release is {variant}."
        )
    return f"; {known.name} may sign it"


def unfit(policy: Policy, keyid: str, time: str, digest: str) -> str | None:
    """Why a key does not count for what was done at a time for a release, if it does not."""
    if (revoked := policy.revocation(keyid)) is not None and _is_meant(revoked, time, digest):
        since = f" from {revoked.since} on" if revoked.since else ""
        return f"was revoked{since}: {revoked.reason}"
    holders: tuple[Holder, ...] = (*policy.keys, *policy.rebuilders)
    known = next((one for one in holders if one.sha256 == keyid), None)
    if known is not None and known.since is not None and time < known.since:
        return f"counts from {known.since} on"
    if known is not None and known.until is not None and time >= known.until:
        return f"counts until {known.until}"
    return None


def _is_meant(revoked: Revoked, time: str, digest: str) -> bool:
    early = revoked.since is not None and time < revoked.since
    return not early and digest not in revoked.releases
