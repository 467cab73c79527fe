"""Makes the documents of a release again, from its provenance, and compares.

The same facts give the same text only by the same code, so that is asked first.
"""

from collections.abc import Mapping
from hashlib import sha256

from forge.core import checkout
from forge.core.errors import ReleaseError
from forge.manifest.provenance import Manifest
from forge.release import documents
from forge.release.facts import Facts


def is_of_this_code(manifest: Manifest) -> bool:
    """Whether the packages that built a release are those that are here."""
    return manifest.source == checkout.source_digests()


def check(manifest: Manifest, facts: Facts, here: Mapping[str, str]) -> str:
    """Compares card, notice and report with what the facts give.

    Args:
        manifest: says which code made them.
        facts: those of the release.
        here: the sha256 of every file, by path.

    Raises:
        ReleaseError: naming the first that tells something else.
    """
    if not is_of_this_code(manifest):
        tree = manifest.commit
        commit = "unknown" if tree is None else tree.digest.git_commit
        return f"not compared: they were made by other code; commit {commit} compares them"
    made = documents.documents(facts)
    for name, data in made.items():
        found, expected = here.get(name, "nothing"), sha256(data).hexdigest()
        if found != expected:
            raise ReleaseError(f"{name}: has sha256 {found}, the provenance gives {expected}.")
    return f"{', '.join(made)} are what the provenance gives"
