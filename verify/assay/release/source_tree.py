"""Compares a manifest with the commit that it names: recipe, lock files and packages.

What was built from a commit is compared with that commit, whatever is checked out here. What was
built with further changes, or where git knows no commits, is compared with the tree here.
"""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

from assay.release.known import LOCK
from forge.core import checkout
from forge.core.errors import ReleaseError, SourceError
from forge.manifest.provenance import Manifest

PACKAGES = ("build/forge", "verify/assay")
HERE = "this tree"


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What the source files were compared with; None of `doubt` if it was the commit itself."""

    where: str
    doubt: str | None


def check(manifest: Manifest) -> Compared:
    """Compares the digest of every source file.

    Returns:
        What they were compared with.

    Raises:
        ReleaseError: naming the first that is not the manifest's, or the commit if it is not here.
    """
    where, read = _tree(manifest)
    source = checkout.source_digests() if where == HERE else _source_at(where)
    own = {name for name in manifest.dependencies if name.startswith(("build/", "lockfiles/"))}
    told = where if where == HERE else f"commit {where}"
    for name in sorted({manifest.asked.recipe, LOCK} | own):
        found = read(name)
        digest = None if found is None else sha256(found).hexdigest()
        _require(name, manifest.dependencies.get(name), digest, told)
    for name in sorted(manifest.source.keys() | source.keys()):
        _require(name, manifest.source.get(name), source.get(name), told)
    return Compared(where=told, doubt=_doubt(manifest) if where == HERE else None)


def _doubt(manifest: Manifest) -> str:
    """Why it is this tree and not a commit that was compared."""
    stated = manifest.commit
    if stated is None or stated.annotations.uncommitted_changes:
        return "it was built with changes that are in no commit"
    commit = stated.digest.git_commit
    return f"git names no commit here, so nobody looked whether commit {commit} is this tree"


def read(manifest: Manifest, name: str) -> bytes:
    """A file of the tree that a manifest names.

    Raises:
        ReleaseError: there is no such file, or that tree is not here.
    """
    where, at = _tree(manifest)
    found = at(name)
    if found is None:
        raise ReleaseError(f"{name}: is not in {where}.")
    return found


def _tree(manifest: Manifest) -> tuple[str, Callable[[str], bytes | None]]:
    """The commit that a manifest names, or this tree, and what reads a file of it."""
    stated = manifest.commit
    if stated is None:
        raise ReleaseError("the manifest names no commit.")
    commit = stated.digest.git_commit
    if not re.fullmatch("[0-9a-f]{40}", commit):
        raise ReleaseError(f"{commit!r}: is no commit, so nobody can look at what was built.")
    if stated.annotations.uncommitted_changes or checkout.commit()[0] == "unknown":
        return HERE, _here
    if not _is_here(commit):
        raise ReleaseError(f"commit {commit} is not in this clone: fetch it, or clone again.")
    if not _is_reached(commit):
        raise ReleaseError(
            f"commit {commit} is in this clone, but on no branch and under no tag of it, so it may "
            "be anybody's: servers give the commits of every fork. Fetch the branch that has it."
        )
    return commit, functools.partial(_at, commit)


def _require(name: str, stated: str | None, found: str | None, where: str) -> None:
    if stated is None or stated != found:
        raise ReleaseError(
            f"{name}: the manifest says sha256 {stated or 'nothing'}, in {where} it is "
            f"{found or 'not there'}."
        )


def _here(name: str) -> bytes | None:
    path = checkout.ROOT / name
    return path.read_bytes() if path.is_file() else None


@functools.cache
def _at(commit: str, name: str) -> bytes | None:
    return _git("cat-file", "blob", f"{commit}:{name}")


@functools.cache
def _is_here(commit: str) -> bool:
    return _git("cat-file", "-e", f"{commit}^{{commit}}") is not None


@functools.cache
def _is_reached(commit: str) -> bool:
    """Whether a branch, a tag or what is checked out leads to a commit."""
    named = _git("for-each-ref", "--count=1", "--contains", commit)
    return bool(named) or _git("merge-base", "--is-ancestor", commit, "HEAD") is not None


@functools.cache
def _source_at(commit: str) -> Mapping[str, str]:
    listed = _git("ls-tree", "-r", "-z", "--name-only", commit, "--", *PACKAGES) or b""
    return _blobs(commit, [name for name in listed.decode().split("\0") if name])


def _blobs(commit: str, names: Sequence[str]) -> Mapping[str, str]:
    """The sha256 of several files of a commit, in one run of git."""
    asked = "".join(f"{commit}:{name}\n" for name in names).encode()
    told = _git("cat-file", "--batch", stdin=asked) or b""
    found = {}
    for name in names:
        head, _, rest = told.partition(b"\n")
        size = int(head.split()[2])
        found[name] = sha256(rest[:size]).hexdigest()
        told = rest[size + 1 :]
    return found


def _git(*arguments: str, stdin: bytes = b"") -> bytes | None:
    """What git prints about this clone; None if it fails."""
    try:
        return checkout.git(*arguments, stdin=stdin)
    except SourceError:
        return None
