"""The client for the hub, as inputs and releases both need it."""

import hashlib
import os
from pathlib import Path

from huggingface_hub import HfApi, constants, errors

# The HTTP client's own base class: httpx's in huggingface_hub 1 (build), httpx2's in 2 (verify).
ClientError = errors.HTTPError  # type: ignore[attr-defined]
LOGIN = "log in with `hf auth login` or set HF_TOKEN"


def endpoint() -> str:
    """The hub that HF_ENDPOINT names now; huggingface_hub reads the variable at import."""
    return os.environ.get("HF_ENDPOINT") or constants.ENDPOINT


def api(at: str | None = None) -> HfApi:
    """The client for that hub, or for another."""
    return HfApi(endpoint=at or endpoint(), library_name="hallmark")


def blob_id(path: Path) -> str:
    """Git's name of a file's bytes."""
    data = path.read_bytes()
    # SHA-1 is git's choice; the sha256 of these files is recorded besides.
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
