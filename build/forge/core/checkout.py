"""The source tree that builds: its root, its commit, its code and its lock files by digest."""

import functools
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from forge.core import canonical, image_labels, machine
from forge.core.errors import NoEnvironmentError, SourceError

ROOT = Path(__file__).resolve().parents[3]
LOCKFILES = ROOT / "lockfiles"
STORE = ROOT / ".store"
# Where the packages lie whose modules decide what is built and how it is judged.
PACKAGES = {"forge": ROOT / "build" / "forge", "assay": ROOT / "verify" / "assay"}


@functools.cache
def source_digests() -> dict[str, str]:
    """The sha256 of every file of forge and assay, modules and templates, by its path."""
    found = (path for package in PACKAGES.values() for path in package.rglob("*"))
    sources = (path for path in found if path.is_file() and "__pycache__" not in path.parts)
    return {
        path.relative_to(ROOT).as_posix(): canonical.sha256_file(path) for path in sorted(sources)
    }


def code_digest() -> str:
    """One digest over the names and contents of every file of forge and assay."""
    return digest_of_code(source_digests())


def digest_of_code(digests: Mapping[str, str]) -> str:
    """The digest of source files, given the sha256 of each by its path."""
    names = sorted(digests, key=PurePosixPath)
    return canonical.sha256_text("".join(f"{digests[name]}  {name}\n" for name in names))


def environment_name(environment: str) -> str:
    """What an environment is called on this machine: without a GPU, the engine is the CPU's."""
    return "verify-cpu" if environment == "verify" and not machine.has_gpu() else environment


def python_of(environment: str) -> Path:
    """The interpreter of an environment of this checkout.

    Raises:
        NoEnvironmentError: it was not made.
    """
    found = ROOT / ".nox" / environment_name(environment) / "bin" / "python"
    if not found.is_file():
        raise NoEnvironmentError(f"{found}: there is no environment {environment!r}.")
    return found


def lock_digests(environment: str) -> dict[str, str]:
    """The lock file that an environment is made from on this machine, with its sha256."""
    path = LOCKFILES / f"{environment_name(environment)}.txt"
    return {path.relative_to(ROOT).as_posix(): canonical.sha256_file(path)}


def commit() -> tuple[str, bool]:
    """The git commit of the source tree, and whether the tree differs from it.

    In the image there is no git; its labels say what it was made from.

    Returns ("unknown", True) where git names none, since nothing then vouches for the tree.
    """
    if inside := machine.container():
        stated = inside.image.labels
        return stated[image_labels.REVISION], stated[image_labels.DIRTY] != "false"
    try:
        return _commit()
    except SourceError:
        return "unknown", True


def _commit() -> tuple[str, bool]:
    """As `commit`, outside of a container.

    Raises:
        SourceError: as `git`.
    """
    head, changes = git("rev-parse", "HEAD"), git("status", "--porcelain")
    return head.decode("ascii").strip(), bool(changes.strip())


def git(*arguments: str, stdin: bytes = b"") -> bytes:
    """What git prints about this checkout.

    It is asked about that alone: not about a repository that the checkout lies in, nor about one
    that variables of git name, such as those that its hooks have.

    Raises:
        SourceError: git cannot be started, or refuses.
    """
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    env |= {"GIT_CEILING_DIRECTORIES": str(ROOT.parent), "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    command = ["git", "-C", str(ROOT), *arguments]
    try:
        done = subprocess.run(command, input=stdin, capture_output=True, check=False, env=env)  # noqa: S603
    except OSError as error:
        raise SourceError(f"git cannot be started: {error.strerror}") from error
    if done.returncode:
        said = done.stderr.decode(errors="backslashreplace").splitlines()
        raise SourceError(said[0] if said else f"git exits with {done.returncode}")
    return done.stdout


def require_commit() -> None:
    """Refuses a source tree that a stranger could not check out.

    Raises:
        SourceError: git names no commit of it, or it has changes that are not committed.
    """
    try:
        _, dirty = _commit()
        reason = "differs from its commit"
    except SourceError as error:
        dirty, reason = True, f"git names no commit of it ({error})"
    if dirty:
        raise SourceError(
            f"{ROOT}: {reason}, so the manifest of a real build could not name what built it. "
            "Commit the changes, or build from a clean clone; a rehearsal needs neither."
        )
