"""The pinned image: what it is made of, what it is called, how it is made and found.

It is named for the tree that it is made from, so that a build in it runs the code of this checkout
and no other. What went into it stands in its labels, which every build in it puts into its
manifest; `lockfiles/images.toml` says where the pins come from.
"""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from docker import DockerClient
from docker.errors import ImageNotFound
from pydantic import Field

from forge.container.answers import asking, field
from forge.core import canonical, checkout, image_labels, machine
from forge.core.errors import ImageError, NoEngineError
from forge.core.image_labels import BASE_DIGEST, BASE_NAME, REVISION, SNAPSHOT
from forge.core.image_labels import TREE as TREE_DIGEST
from forge.core.machine import ContainerImage
from forge.core.model import Model

# What the image is made from; .dockerignore lets in the same, less itself and the Dockerfile.
TREE = (
    ".dockerignore", "Dockerfile", "LICENSE", "README.md", "build", "lockfiles", "pyproject.toml",
    "verify",
)  # fmt: skip
_LEFT_OUT = ("__pycache__", ".egg-info")
Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]


class Base(Model):
    """The image that ours begins with, and the command that tells its newest digest."""

    name: str
    tag: str
    digest: Digest
    refresh: str

    @property
    def reference(self) -> str:
        """The way an engine names it; only the digest decides."""
        return f"{self.name}:{self.tag}@{self.digest}"


class System(Model):
    """The date of the distribution's archive, as its name and in seconds since 1970."""

    snapshot: str
    epoch: int


class Pins(Model):
    """`lockfiles/images.toml`."""

    base: Base
    system: System


@dataclass(frozen=True, kw_only=True)
class Image:
    """An image that the engine has: its id, the digest of its layers, its labels.

    The id also covers when it was made; the layers are the same however often it is made.
    """

    id: str
    layers: str
    labels: Mapping[str, str]

    def facts(self) -> ContainerImage:
        """What a manifest says of it."""
        return ContainerImage(id=self.id, layers=self.layers, labels=dict(self.labels))


def pins() -> Pins:
    """What the image is made of besides the locked packages."""
    path = checkout.LOCKFILES / "images.toml"
    return Pins.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))


def tree_digest() -> str:
    """One digest over the names and contents of every file that the image is made from."""
    roots = [checkout.ROOT / name for name in TREE]
    files = [f for root in roots for f in (root.rglob("*") if root.is_dir() else [root])]
    return canonical.sha256_text(
        "".join(
            f"{canonical.sha256_file(path)}  {path.relative_to(checkout.ROOT).as_posix()}\n"
            for path in sorted(files)
            if path.is_file() and not any(part.endswith(_LEFT_OUT) for part in path.parts)
        )
    )


def name() -> str:
    """What the image of this tree is called: its commit, and its digest where that differs."""
    commit, dirty = checkout.commit()
    return f"hallmark:{commit[:12]}" + (f"-{tree_digest()[:12]}" if dirty else "")


def labels(*, base: str, base_digest: str, snapshot: str, verify: str) -> dict[str, str]:
    """What went into the image: commit, base, snapshot, every lock file by its sha256."""
    commit, dirty = checkout.commit()
    digests = {
        lock: canonical.sha256_file(checkout.LOCKFILES / f"{lock}.txt")
        for lock in image_labels.locks(verify)
    }
    return {
        **image_labels.of_source(commit, dirty=dirty, verify=verify, digests=digests),
        BASE_NAME: base,
        BASE_DIGEST: base_digest,
        SNAPSHOT: snapshot,
        TREE_DIGEST: tree_digest(),
    }


def command(
    client: DockerClient, *, base: str | None = None, snapshot: str | None = None
) -> list[str]:
    """The command that makes the image of this tree, run in its root; without a tag.

    The engine's own client is used, since its SDK knows no build secrets. The certificates and
    the installer's settings of this machine are such secrets: no layer and no label has them.

    Raises:
        NoEngineError: the client is not installed.
        ImageError: the engine does not have the local base.
    """
    pinned = pins()
    base = base or pinned.base.reference
    snapshot = snapshot or pinned.system.snapshot
    verify = "verify" if machine.has_gpu() else "verify-cpu"
    stated = labels(base=base, base_digest=_digest(client, base), snapshot=snapshot, verify=verify)
    given = {
        "BASE": base,
        "SNAPSHOT": snapshot,
        "SOURCE_DATE_EPOCH": str(pinned.system.epoch),
        "VERIFY": verify,
    }
    return [
        _builder(), "build", "--network=host", "--target=verify",
        *(f"--build-arg={key}={value}" for key, value in given.items()),
        *(f"--label={key}={value}" for key, value in stated.items()),
        *(f"--secret=id={key},src={path}" for key, path in _secrets().items()),
    ]  # fmt: skip


def build(client: DockerClient, *, base: str | None = None, snapshot: str | None = None) -> Image:
    """Makes the image of this tree, under its name.

    Raises:
        ImageError: a step of the Dockerfile failed; what it said was printed.
    """
    done = subprocess.run(  # noqa: S603 - the engine's client, told what the Dockerfile declares
        [*command(client, base=base, snapshot=snapshot), f"--tag={name()}", "."],
        cwd=checkout.ROOT,
        env={**os.environ, "DOCKER_BUILDKIT": "1"},
        stdout=sys.stderr,
        check=False,
    )
    if done.returncode:
        raise ImageError(
            f"the image could not be made: its builder, {_builder()}, said why above and exited "
            f"with {done.returncode}.",
            remedy="host",
        )
    return find(client)


def find(client: DockerClient) -> Image:
    """The image of this tree.

    Raises:
        ImageError: there is no such image, or :func:`build` did not make it.
    """
    wanted = name()
    try:
        found = _get(client, wanted)
    except ImageNotFound as error:
        raise ImageError(
            f"the engine has no image {wanted}, which this tree would be built in.",
            remedy="make-image",
        ) from error
    labels = field(found, "Config").get("Labels") or {}
    if REVISION not in labels:
        raise ImageError(f"{wanted}: has no label {REVISION}.", remedy="make-image")
    layers = canonical.sha256_text(canonical.dumps(field(found, "RootFS", "Layers")))
    return Image(id=field(found, "Id"), layers=layers, labels=labels)


def _get(client: DockerClient, name: str) -> Any:
    """What the engine says of an image.

    Raises:
        ImageNotFound: it has none of that name.
        NoEngineError: it does not answer as an engine.
    """
    with asking(f"the engine cannot be asked for the image {name}"):
        try:
            return client.api.inspect_image(name)
        except ImageNotFound as error:
            missing = error
    raise missing


def _digest(client: DockerClient, base: str) -> str:
    """What pins a base: the digest in its reference, or of a local one, its id."""
    if pinned := re.search(r"@(sha256:[0-9a-f]{64})$", base):
        return pinned[1]
    try:
        return str(field(_get(client, base), "Id"))
    except ImageNotFound as error:
        raise ImageError(
            f"{base}: is neither pinned by a digest (name@sha256:...) nor an image that the engine "
            "has.",
            remedy="image-base",
        ) from error


def _builder() -> str:
    """The engine's client: what DOCKER names, else docker or podman."""
    names = [os.environ["DOCKER"]] if "DOCKER" in os.environ else ["docker", "podman"]
    found = next((path for path in map(shutil.which, names) if path), None)
    if found is None:
        raise NoEngineError(
            f"the image cannot be made: there is no program {' or '.join(names)} here. Install "
            "one.",
            remedy="host",
        )
    return found


def _secrets() -> dict[str, Path]:
    """The certificates and the installer's settings of this machine, where it has its own."""
    settings = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "uv/uv.toml"
    given = {
        "certificates": os.environ.get("SSL_CERT_FILE"),
        "uv": os.environ.get("UV_CONFIG_FILE") or settings,
    }
    return {key: Path(path) for key, path in given.items() if path and Path(path).is_file()}
