"""Holds inputs and steps to the recipe: its pins, its files, and what each step was told to do.

The recipe is that of the commit which the manifest names. What a real build takes comes from its
pinned repositories, what a rehearsal takes from the stand-ins of that commit or a local base.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from assay.release import images, source_tree
from forge.checkpoint import dress, layout
from forge.core import canonical
from forge.core.errors import ReleaseError
from forge.core.files import SourceKind, select
from forge.inputs import decided
from forge.manifest.inputs import InputFile
from forge.manifest.names import INPUTS
from forge.manifest.provenance import Input, Manifest
from forge.recipes import recipe as recipes
from forge.recipes.recipe import Recipe
from forge.tensors import family

STANDINS = "build/standins"


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """What a manifest says of its inputs, and the recipe that they are held to.

    `sources` has kind, URI and name of every input by its role, `files` its files by path.
    """

    manifest: Manifest
    recipe: Recipe
    sources: Mapping[str, tuple[SourceKind, str, str]]
    files: Mapping[str, Mapping[str, Input]]

    @property
    def joined(self) -> str | None:
        """The role of the input that is a split's text rather than the table that holds it."""
        text = f"{self.recipe.perplexity.config}/{self.recipe.perplexity.split}.txt"
        mirrored = self.sources["perplexity"][0] == "mirror"
        return "perplexity" if mirrored and self.files["perplexity"].keys() == {text} else None


def read(manifest: Manifest) -> Recipe:
    """The recipe that a manifest names, at its commit.

    Raises:
        ReleaseError: it is not there.
        RecipeError: this version cannot read it.
    """
    path = manifest.asked.recipe
    return recipes.parse(source_tree.read(manifest, path), Path(path))


def check(manifest: Manifest, recipe: Recipe) -> str:
    """Compares inputs, parameters and builder with the recipe.

    Raises:
        ReleaseError: naming the first that is not what the recipe says.
    """
    if not manifest.rehearsal:
        recipe.require_ready()
    asked = _read(manifest, recipe)
    sources = asked.sources
    for role in sources:
        _require_files(asked, role)
    if manifest.asked.source != sources["base"][1]:
        raise ReleaseError(f"it was built from {manifest.asked.source}, not {sources['base'][1]}.")
    _require_list(asked)
    _require_text(asked)
    _require_parameters(asked)
    images.check(manifest)
    return f"{len(manifest.inputs)} files of {len(sources)} inputs, as the recipe takes them"


def _read(manifest: Manifest, recipe: Recipe) -> _Asked:
    """What a manifest says of its inputs, which are those of the recipe."""
    files: dict[str, dict[str, Input]] = {role: {} for role in recipe.sources}
    for one in manifest.inputs:
        role, _, path = one.name.partition("/")
        if role not in files:
            raise ReleaseError(f"{one.name}: is an input, and the recipe takes no {role}.")
        files[role][path] = one
    sources = _sources(manifest, recipe)
    return _Asked(manifest=manifest, recipe=recipe, sources=sources, files=files)


def _sources(manifest: Manifest, recipe: Recipe) -> dict[str, tuple[SourceKind, str, str]]:
    """Kind, URI and name of every input, by what the manifest says of where each came from."""
    stated = manifest.predicate.build_definition.internal_parameters.fetched_from
    if differing := sorted(stated.keys() ^ recipe.sources.keys()):
        raise ReleaseError(
            f"fetched_from: {differing[0]} is in {'it' if differing[0] in stated else 'the recipe'}"
            f" alone; the recipe takes {', '.join(recipe.sources)}."
        )
    found = {}
    for role in recipe.sources:
        kind = stated[role]
        allowed = decided.kinds(role, rehearsal=manifest.rehearsal)
        if kind not in allowed:
            what = "a rehearsal" if manifest.rehearsal else "a real build"
            raise ReleaseError(
                f"fetched_from: {role} is {kind!r}; {what} takes it from {' or '.join(allowed)}."
            )
        found[role] = (kind, *decided.named(recipe, role, kind))
    return found


def _require_files(asked: _Asked, role: str) -> None:
    """Holds the files of an input to what the recipe takes of where it comes from."""
    recipe, found = asked.recipe, asked.files[role]
    kind, uri, _ = asked.sources[role]
    joined = role == asked.joined
    for path, one in found.items():
        expected = uri if joined else f"{uri}#{path}"
        if one.uri != expected:
            raise ReleaseError(f"{one.name}: is from {one.uri}, the recipe takes {expected}.")
    if kind == "standin":
        _require_standin(asked, role)
    elif not joined:
        local = kind == "local"
        globs = decided.base_globs(recipe) if local else decided.globs_of(recipe.sources[role])
        also = decided.beside(recipe, role)
        taken = select(found, globs, role, strict=not local, also=also)
        if extra := sorted(found.keys() - {*taken}):
            raise ReleaseError(f"{role}/{extra[0]}: is not one of the files that the recipe takes.")
    if not found:
        raise ReleaseError(f"{role}: the manifest names no file of it.")
    if role == "template" and recipe.template is not None and kind != "standin":
        (one,) = found.values()
        if one.digest.sha256 != recipe.template.sha256:
            raise ReleaseError(
                f"{one.name}: has sha256 {one.digest.sha256}, the recipe pins "
                f"{recipe.template.sha256}."
            )


def _require_standin(asked: _Asked, role: str) -> None:
    found = {path: one.digest.sha256 for path, one in asked.files[role].items()}
    try:
        pinned = decided.pinned(
            asked.recipe, role, lambda path: source_tree.read(asked.manifest, f"{STANDINS}/{path}")
        )
    except ValueError as error:
        raise ReleaseError(
            f"{role}: the stand-ins of that tree cannot be read: {error}."
        ) from error
    for path in sorted(pinned.keys() | found.keys()):
        here, there = found.get(path, "nothing"), pinned.get(path, "nothing")
        if here != there:
            raise ReleaseError(f"{role}/{path}: has sha256 {here}, the stand-in's has {there}.")


def inputs_of(manifest: Manifest, recipe: Recipe) -> bytes:
    """`inputs.json`, made again of the inputs that a manifest names."""
    return _inputs(_read(manifest, recipe))


def _inputs(asked: _Asked) -> bytes:
    revisions = {
        role: str(asked.recipe.sources[role].revision) if kind in {"hub", "mirror"} else None
        for role, (kind, _, _) in asked.sources.items()
    }
    listed = [
        InputFile(
            role=role, path=path, sha256=one.digest.sha256, bytes=one.annotations.bytes, uri=one.uri
        )
        for role, group in asked.files.items()
        for path, one in group.items()
    ]
    return decided.inputs(asked.sources, revisions, listed).encoded()


def _require_list(asked: _Asked) -> None:
    """Holds the list of inputs that fetch wrote to the inputs that the manifest names."""
    made = _inputs(asked)
    written = _wrote(asked, INPUTS)
    if written != (expected := sha256(made).hexdigest()):
        raise ReleaseError(
            f"step/fetch: wrote {INPUTS} with sha256 {written}, the inputs of the manifest give "
            f"{expected}."
        )


def _require_text(asked: _Asked) -> None:
    wanted, written = asked.recipe.perplexity.text_sha256, _wrote(asked, "perplexity/text.txt")
    if asked.sources["perplexity"][0] != "standin" and written != wanted:
        raise ReleaseError(
            f"step/fetch: wrote perplexity/text.txt with sha256 {written}, the recipe pins "
            f"{wanted}."
        )


def _wrote(asked: _Asked, path: str) -> str:
    return asked.manifest.steps["fetch"].annotations.outputs[path]


def _require_parameters(asked: _Asked) -> None:
    """Holds the parameters of the steps to those that the recipe gives, as far as it alone does."""
    recipe = asked.recipe
    told = {name: step.annotations.parameters for name, step in asked.manifest.steps.items()}
    origins = {role: [kind, _key(asked, role)] for role, (kind, _, _) in asked.sources.items()}
    fetched = {**told["fetch"], "origins": _timeless(told["fetch"].get("origins"))}
    require_told("fetch", fetched, {"origins": origins, **decided.of(recipe)})
    require_told("quantize", told["quantize"], layout.decided(recipe))
    require_told("dress", told["dress"], dress.decided(recipe))
    level = asked.manifest.predicate.build_definition.internal_parameters.verified
    judged = recipe.judging(rehearsal=asked.manifest.rehearsal)
    wanted = {"recipe": judged.without_prose(), "family": family.digest(recipe.architecture)}
    require_told("verify", told["verify"], {"level": level, **wanted})


def require_told(step: str, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Holds the parameters of a step to what they should be.

    Raises:
        ReleaseError: naming the first that differs.
    """
    wanted = json.loads(canonical.dumps(expected))
    for name in sorted(found.keys() | wanted.keys()):
        if found.get(name) != wanted.get(name) or (name in found) != (name in wanted):
            raise ReleaseError(
                f"step/{step}: its parameter {name} is {found.get(name)!r:.300}, the recipe gives "
                f"{wanted.get(name)!r:.300}."
            )


def _key(asked: _Asked, role: str) -> Any:
    """What fetch's key says of an input, without the times of files."""
    kind, uri, _ = asked.sources[role]
    found = asked.files[role]
    stamps = [[path, one.annotations.bytes] for path, one in sorted(found.items())]
    digests = {path: one.digest.sha256 for path, one in found.items()}
    if kind == "hub":
        globs = decided.globs_of(asked.recipe.sources[role])
        return [uri, [*globs, *decided.beside(asked.recipe, role)]]
    if kind == "standin":
        return [uri, digests]
    if kind == "local":
        return stamps
    return [uri, stamps] if role == asked.joined else [uri, stamps, digests]


def _timeless(value: Any) -> Any:
    """Parameters with the stamps of files, [path, size, time in ns], without their times."""
    if isinstance(value, dict):
        return {key: _timeless(one) for key, one in value.items()}
    if not isinstance(value, list):
        return value
    match value:
        case [str(), int(), int()]:
            return value[:2]
    return [_timeless(one) for one in value]
