"""What a repository on the hub holds, and what it lacks of a release."""

from dataclasses import dataclass

from huggingface_hub import HfApi, errors
from huggingface_hub.hf_api import RepoFile

from forge.core.hub_client import blob_id, newest, tree
from forge.release.outgoing import Outgoing


@dataclass(frozen=True, kw_only=True)
class UploadPlan:
    """Changes to a repository whose newest commit is `parent`, or None if it does not exist.

    `changed` are the files to send, `removed` those of the repository that are not of the release.
    """

    repo: str
    parent: str | None
    release: Outgoing
    changed: tuple[str, ...]
    removed: tuple[str, ...]


def plan(client: HfApi, repo: str, release: Outgoing) -> UploadPlan:
    """The changes after which a repository holds these files and no others.

    Raises:
        UploadError: a file was changed since it was hashed.
    """
    files = release.files
    try:
        parent = newest(client, repo)
    except errors.RepositoryNotFoundError:
        return UploadPlan(repo=repo, parent=None, release=release, changed=tuple(files), removed=())
    there = tree(client, repo, parent)
    return UploadPlan(
        repo=repo,
        parent=parent,
        release=release,
        changed=tuple(name for name in files if not holds(there.get(name), release, name)),
        removed=tuple(sorted(there.keys() - files.keys())),
    )


def holds(entry: RepoFile | None, release: Outgoing, name: str) -> bool:
    """Whether the hub's file has our bytes: by sha256 if it is large, else by git's blob id.

    Raises:
        UploadError: the file was changed since it was hashed.
    """
    if entry is None or entry.size != release.files[name].bytes:
        return False
    if entry.lfs is not None:
        return entry.lfs.sha256 == release.files[name].sha256
    return entry.blob_id == blob_id(release.content(name))
