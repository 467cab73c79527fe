"""The client for the hub, as inputs and releases both need it."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath

from huggingface_hub import HfApi, constants, errors, get_token, set_client_factory
from huggingface_hub.hf_api import RepoFile

from forge.core import hub_session
from forge.core.machine import without_user

# The HTTP client's own base class: httpx's in huggingface_hub 1 (build), httpx2's in 2 (verify).
ClientError = errors.HTTPError  # type: ignore[attr-defined]
LISTING_SECONDS = 600.0
MOST_FILES = 100_000

set_client_factory(hub_session.Client)
# Otherwise the first request is a list of coding agents, from the public hub, to name the one that
# is at work in every request after it.
constants.HF_HUB_DISABLE_TELEMETRY = True


class MalformedError(Exception):
    """The server is not a hub, or its listing cannot be built from."""


def endpoint() -> str:
    """The hub that HF_ENDPOINT names now; huggingface_hub reads the variable at import."""
    return os.environ.get("HF_ENDPOINT") or constants.ENDPOINT


def shown(at: str) -> str:
    """A hub's address as it may be printed: without a user and password in it."""
    return without_user(at)


def said(text: str) -> str:
    """What the hub says, as it may be printed: one line of bounded length, without the token."""
    token = get_token()
    line = " ".join(text.split())
    return (line.replace(token, "<token>") if token else line)[:300]


def api(at: str | None = None) -> HfApi:
    """The client for that hub, or for another."""
    return HfApi(endpoint=at or endpoint(), library_name="hallmark")


def newest(client: HfApi, repo: str, revision: str | None = None, kind: str = "model") -> str:
    """The commit that the hub has for a revision of a repository, by default for its main branch.

    Raises:
        MalformedError: the answer names none.
        httpx.HTTPError, OSError: the hub cannot be asked, or refuses.
    """
    with hub_session.within(LISTING_SECONDS), _understood():
        commit = client.repo_info(repo, repo_type=kind, revision=revision).sha
    if not isinstance(commit, str):
        raise MalformedError(f"names no commit for {revision or 'main'!r}")
    return commit


def tree(client: HfApi, repo: str, commit: str, kind: str = "model") -> dict[str, RepoFile]:
    """The files of a repository at a commit, by path.

    Raises:
        MalformedError: the answer is no listing of files.
        httpx.HTTPError, OSError: the hub cannot be asked, refuses, or the listing does not end.
    """
    found: dict[str, RepoFile] = {}
    with hub_session.within(LISTING_SECONDS), _understood():
        for entry in client.list_repo_tree(repo, repo_type=kind, revision=commit, recursive=True):
            if not isinstance(entry, RepoFile):
                continue
            _require_file(entry)
            if entry.path in found:
                raise MalformedError(f"lists {entry.path} twice")
            found[entry.path] = entry
            if len(found) > MOST_FILES:
                raise MalformedError(f"lists more than {MOST_FILES} files")
    return found


def history(client: HfApi, repo: str, kind: str = "model") -> list[str]:
    """The commits of a repository's main branch, newest first.

    Raises:
        MalformedError: the answer is no list of commits.
        httpx.HTTPError, OSError: the hub cannot be asked, refuses, or the list does not end.
    """
    with hub_session.within(LISTING_SECONDS), _understood():
        return [str(entry.commit_id) for entry in client.list_repo_commits(repo, repo_type=kind)]


@contextmanager
def _understood() -> Iterator[None]:
    """Turns what huggingface_hub stumbles over in an answer into one error.

    Raises:
        MalformedError: in place of those.
    """
    try:
        yield
    except UnicodeEncodeError:
        # Raised before anything is asked; its text would quote the header.
        raise MalformedError(
            "was not asked: the token has characters that no header can carry"
        ) from None
    except errors.HfHubHTTPError:
        raise  # some are ValueErrors as well
    except errors.HFValidationError as error:
        raise MalformedError(f"was not asked: {error}") from error
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise MalformedError(f"does not answer as a hub does ({type(error).__name__})") from error


def _require_file(entry: RepoFile) -> None:
    """Holds an entry to what a file's is: a path inside the repository, a size, a digest."""
    path, size = entry.path, entry.size
    if not isinstance(path, str) or not path or "\\" in path or "\0" in path:
        raise MalformedError(f"lists a file without a usable path ({path!r})")
    if path.startswith("/") or ".." in PurePosixPath(path).parts:
        raise MalformedError(f"lists a file outside the repository ({path!r})")
    if not isinstance(size, int) or size < 0:
        raise MalformedError(f"lists {path} with the size {size!r}")
    digest = entry.blob_id if entry.lfs is None else entry.lfs.sha256
    if not isinstance(digest, str):
        raise MalformedError(f"lists {path} with the digest {digest!r}")


def blob_id(data: bytes) -> str:
    """Git's name of a file's bytes."""
    # SHA-1 is git's choice; the sha256 of these files is recorded besides.
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
