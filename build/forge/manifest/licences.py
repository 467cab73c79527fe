"""Recognizes the text of a licence, of those that are known here."""

import re

_KNOWN = {
    "apache-2.0": re.compile(r"Apache License,?\s+Version 2\.0"),
    "mit": re.compile(r"\bMIT License\b"),
}
# The identifiers of SPDX for the hub's.
SPDX = {"apache-2.0": "Apache-2.0", "mit": "MIT"}
_HEAD = 1000  # characters of a text in which its name stands


def identified(data: bytes) -> str | None:
    """The hub's identifier of a licence text, or None if it is not one of those known here."""
    text = data.decode("utf-8", errors="replace")[:_HEAD]
    return next((name for name, pattern in _KNOWN.items() if pattern.search(text)), None)
