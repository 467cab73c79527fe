"""in-toto Statements v1 (https://in-toto.io/Statement/v1): what is said of which files."""

from collections.abc import Mapping
from typing import Any

TYPE = "https://in-toto.io/Statement/v1"
# The media type of a statement inside an envelope.
MEDIA_TYPE = "application/vnd.in-toto+json"


def of(subjects: Mapping[str, str], predicate_type: str, predicate: Any) -> dict[str, Any]:
    """A statement about files, given by path and sha256."""
    return {
        "_type": TYPE,
        "subject": [resource(name, digest) for name, digest in sorted(subjects.items())],
        "predicateType": predicate_type,
        "predicate": predicate,
    }


def resource(name: str, sha256: str) -> dict[str, Any]:
    """An in-toto resource descriptor."""
    return {"name": name, "digest": {"sha256": sha256}}
