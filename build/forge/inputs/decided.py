"""What a recipe says of its inputs: which files are taken, and from where.

Fetch follows it, and verify-release expects it. Nothing here asks a hub or reads a file.
"""

from collections.abc import Callable, Mapping, Sequence
from glob import escape
from typing import Any

from forge.core import canonical
from forge.core.files import SourceKind, select
from forge.inputs import mirror, standin
from forge.manifest.inputs import InputFile, Inputs, InputSource
from forge.recipes.recipe import CalibrationSet, Donor, Recipe
from forge.recipes.sources import Checkpoint, Dataset, Source, Template
from forge.tensors import family
from forge.tensors.configs import CONFIG
from forge.tensors.tensorfile import INDEX

# Where a rehearsal's inputs come from, by role; all others are stand-ins.
REHEARSED: Mapping[str, tuple[SourceKind, ...]] = {
    "base": ("standin", "local"),
    "perplexity": ("standin", "mirror", "hub"),
}


def of(recipe: Recipe) -> dict[str, Any]:
    """What is taken of the inputs, wherever they come from."""
    return {
        "calibration": {
            name: [wanted.column, wanted.rows, wanted.most_rows]
            for name, wanted in recipe.calibration.sets.items()
        },
        "perplexity": [recipe.perplexity.column, recipe.perplexity.text_sha256],
        "template": recipe.template and recipe.template.sha256,
        "lent": list(recipe.lent),
    }


def kinds(role: str, *, rehearsal: bool) -> tuple[SourceKind, ...]:
    """Where an input may come from."""
    return REHEARSED.get(role, ("standin",)) if rehearsal else ("mirror", "hub")


def globs_of(source: Source) -> tuple[str, ...]:
    """The files that a recipe takes of a source."""
    if isinstance(source, Donor):
        return (*source.files, *map(escape, source.lends))
    if isinstance(source, Checkpoint):
        return source.files
    if isinstance(source, CalibrationSet):
        return (escape(source.file), *source.media)
    if isinstance(source, Template | Dataset):
        return (escape(source.file),)
    raise TypeError(f"{type(source).__name__} does not say which files it takes")


def beside(recipe: Recipe, role: str) -> tuple[str, ...]:
    """What is taken of an input where it has it: what the base's family reads beside weights.

    Of several spellings of the chat template, none is taken beside one that the recipe names.
    """
    known = family.of_architecture(recipe.architecture) if role == "base" else None
    if known is None:
        return ()
    replaced = recipe.template is not None
    return tuple(
        glob for one in known.beside if not (replaced and one.templates) for glob in one.files
    )


def base_globs(recipe: Recipe) -> tuple[str, ...]:
    """What a rehearsal takes of its base: what the donor lends is the base's own if it has it."""
    return (*recipe.base.files, *map(escape, recipe.lent), *beside(recipe, "base"))


def donated_globs(recipe: Recipe) -> tuple[str, ...]:
    """What a rehearsal takes of its donor, whatever the files of the real one are called."""
    return ("*.safetensors", INDEX, CONFIG, *map(escape, recipe.lent))


def named(recipe: Recipe, role: str, kind: SourceKind) -> tuple[str, str]:
    """The URI of an input and what people call it.

    Raises:
        UnpinnedError: it comes from a repository whose commit is not known.
    """
    source = recipe.sources[role]
    if kind == "local":
        return mirror.LOCAL_URI, mirror.LOCAL_TITLE
    if kind in {"hub", "mirror"}:
        return source.uri, mirror.title(source)
    if isinstance(source, Checkpoint):
        return f"standin:{recipe.standin}", standin.CHECKPOINT_TITLE.format(recipe.standin)
    if isinstance(source, Template):
        return "standin:template", standin.TEMPLATE_TITLE
    return "standin:corpus", standin.CORPUS_TITLE.format(_part(source)[0])


def pinned(recipe: Recipe, role: str, read: Callable[[str], bytes]) -> dict[str, str]:
    """The digests of what stands for an input in a rehearsal, by path.

    Args:
        recipe: whose input it is.
        role: which.
        read: gives a file below the folder of the stand-ins.

    Raises:
        ValueError: what is read is malformed.
    """
    source = recipe.sources[role]
    if isinstance(source, Checkpoint):
        card = standin.parse(read(f"{recipe.standin}/standin.toml"), standin.Card)
        globs = donated_globs(recipe) if isinstance(source, Donor) else base_globs(recipe)
        names = select(card.files, globs, recipe.standin, strict=False)
        return {name: card.files[name] for name in names}
    pins = standin.parse(read(standin.PINS), standin.Pins).files
    if isinstance(source, Template):
        return {standin.TEMPLATE: pins[standin.TEMPLATE]}
    part, count = _part(source)
    return {name: pins[name] for name in standin.names_of(pins, part)[:count]}


def inputs(
    sources: Mapping[str, tuple[SourceKind, str, str]],
    revisions: Mapping[str, str | None],
    files: Sequence[InputFile],
) -> Inputs:
    """`inputs.json`.

    Args:
        sources: kind, URI and name of each input by its role.
        revisions: the commit of each that has one.
        files: those that were read.
    """
    ordered = sorted(files, key=lambda file: (file.role, file.path))
    told = {
        role: InputSource(
            kind=kind,
            uri=uri,
            revision=revisions[role] or _revision([f for f in ordered if f.role == role]),
            name=name,
        )
        for role, (kind, uri, name) in sources.items()
    }
    return Inputs(sources=told, files=tuple(ordered))


def _revision(files: Sequence[InputFile]) -> str:
    """A revision for files that have none: the digest of their SHA256SUMS."""
    sums = "".join(f"{file.sha256}  {file.path}\n" for file in files)
    return f"sha256:{canonical.sha256_text(sums)}"


def _part(source: Source) -> tuple[str, int | None]:
    """The part of the corpus that stands for a data set, and how many of its files."""
    if isinstance(source, CalibrationSet):
        return standin.part_of(source)
    return standin.EVALUATION, None
