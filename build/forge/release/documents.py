"""The documents of a release: what lies beside the checkpoint, all of it made from the facts."""

from forge.manifest.names import DOCUMENTS
from forge.release import card, report
from forge.release.facts import Facts

# The hub writes one of its own into a repository that has none; this is in the signed list. With
# its first line, no clone has other line ends than what was signed.
ATTRIBUTES = """\
* -text
*.safetensors filter=lfs diff=lfs merge=lfs -text
tokenizer.json filter=lfs diff=lfs merge=lfs -text
"""


def documents(found: Facts) -> dict[str, bytes]:
    """Every document by its name."""
    made = {
        "README.md": card.card(found),
        "NOTICE": card.notice(found),
        "report.html": report.report(found),
        ".gitattributes": ATTRIBUTES,
    }
    return {name: made[name].encode() for name in DOCUMENTS}
