"""Holds the builder to where it built: the pinned image, or a host.

A manifest names an image in four places: as a dependency, as what the machine's container was made
from, by its labels, and in the systems of the steps. They must be of one image, and its labels
those that the commit gives an image. Whether that image ran, only a rebuild in it shows.
"""

import re
from collections.abc import Mapping
from hashlib import sha256

from assay.release import source_tree
from forge.core import image_labels
from forge.core.errors import ReleaseError
from forge.core.image_labels import BASE_DIGEST, BASE_NAME, SNAPSHOT
from forge.core.machine import Container
from forge.manifest.provenance import BUILDERS, REHEARSALS, BaseImage, Image, Manifest

IMAGES = {BUILDERS["image"], REHEARSALS["image"]}
# What a step's record says of a host, and of the step that asks the network wherever it is built.
OUTSIDE = {"base": None, "snapshot": None}


def check(manifest: Manifest) -> None:
    """Compares what a manifest says of the image, and with the commit that it names.

    Raises:
        ReleaseError: naming the first that differs.
    """
    definition = manifest.predicate.build_definition
    images = [one for one in definition.resolved_dependencies if isinstance(one, Image)]
    bases = [one for one in definition.resolved_dependencies if isinstance(one, BaseImage)]
    inside = definition.internal_parameters.machine.container
    if manifest.builder not in IMAGES:
        if images or bases or inside is not None:
            raise ReleaseError(
                f"{manifest.builder}: built on a host, and the manifest has an image."
            )
        _require_systems(manifest, OUTSIDE)
        return
    if not images or not bases or inside is None:
        raise ReleaseError(f"{manifest.builder}: built in an image, and the manifest names none.")
    _require_one(images[0], inside)
    labels = inside.image.labels
    _require_base(bases[0], labels.get(BASE_NAME), labels.get(BASE_DIGEST))
    _require_source(manifest, labels)
    _require_systems(manifest, {"base": labels[BASE_DIGEST], "snapshot": labels.get(SNAPSHOT)})


def _require_one(image: Image, inside: Container) -> None:
    """Holds the image that is named to that of the container."""
    named = {
        "id": f"sha256:{image.digest.sha256}",
        "layers": image.annotations.layers_sha256,
        "labels": image.annotations.labels,
    }
    made_from = inside.image.as_json()
    for key, value in named.items():
        if value != made_from[key]:
            raise ReleaseError(
                f"image: its {key} is {value!r:.300}, that of the machine's container "
                f"{made_from[key]!r:.300}."
            )


def _require_base(base: BaseImage, name: str | None, digest: str | None) -> None:
    """Holds the image that ours begins with to the labels of ours."""
    if f"sha256:{base.digest.sha256}" != digest:
        raise ReleaseError(
            f"image/base: is sha256:{base.digest.sha256}, the image's label {BASE_DIGEST} says "
            f"{digest}."
        )
    if base.uri != f"oci:{name}":
        raise ReleaseError(
            f"image/base: is from {base.uri}, the image's label {BASE_NAME} says {name}."
        )
    pinned = re.search(r"@(sha256:[0-9a-f]{64})$", name or "")
    if pinned and pinned[1] != digest:
        raise ReleaseError(f"image/base: is {name}, and its digest {digest}.")


def _require_source(manifest: Manifest, labels: Mapping[str, str]) -> None:
    """Holds the labels to those that an image of the manifest's commit has."""
    engine = labels.get(image_labels.VERIFY, "")
    if engine not in image_labels.ENGINES or manifest.commit is None:
        raise ReleaseError(
            f"image: its label {image_labels.VERIFY} is {engine!r}; an image has one of "
            f"{', '.join(image_labels.ENGINES)}."
        )
    expected = image_labels.of_source(
        manifest.commit.digest.git_commit,
        dirty=manifest.commit.annotations.uncommitted_changes,
        verify=engine,
        digests={
            lock: sha256(source_tree.read(manifest, f"lockfiles/{lock}.txt")).hexdigest()
            for lock in image_labels.locks(engine)
        },
    )
    for name, value in expected.items():
        if labels.get(name) != value:
            raise ReleaseError(
                f"image: its label {name} is {labels.get(name)!r}, of the manifest's commit it is "
                f"{value!r}."
            )


def _require_systems(manifest: Manifest, systems: Mapping[str, str | None]) -> None:
    """Holds the systems that the steps ran in to the builder's."""
    for name, step in manifest.steps.items():
        # What asks the network is done outside of the image.
        expected = OUTSIDE if name == "fetch" else systems
        stated = step.annotations.system
        if {key: stated.get(key) for key in expected} != expected:
            raise ReleaseError(f"step/{name}: ran in {stated}, the builder in {expected}.")
