"""The labels of the pinned image: what went into it, in one spelling.

The image is made with them, every build in it puts them into its manifest, and whoever verifies a
release derives again what the commit says of them.
"""

from collections.abc import Mapping

REVISION = "org.opencontainers.image.revision"
BASE_NAME = "org.opencontainers.image.base.name"
BASE_DIGEST = "org.opencontainers.image.base.digest"
DIRTY = "hallmark.dirty"
SNAPSHOT = "hallmark.snapshot"
TREE = "hallmark.tree"
VERIFY = "hallmark.verify"
LOCK = "hallmark.lock."
# The environments of the engine, for a GPU and without one; an image has one of them.
ENGINES = ("verify", "verify-cpu")


def locks(verify: str) -> tuple[str, ...]:
    """The lock files of an image by name; `verify` is that of its engine."""
    return ("tools", "build", verify)


def of_source(
    commit: str, *, dirty: bool, verify: str, digests: Mapping[str, str]
) -> dict[str, str]:
    """The labels that follow from the source tree.

    Args:
        commit: of the tree.
        dirty: whether the tree differs from it.
        verify: the environment of the engine.
        digests: the sha256 of the lock files by name.
    """
    return {
        REVISION: commit,
        DIRTY: str(dirty).lower(),
        VERIFY: verify,
        **{f"{LOCK}{lock}": digests[lock] for lock in locks(verify)},
    }
