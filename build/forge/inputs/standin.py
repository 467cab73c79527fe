"""Stand-ins: small checkpoints of the published architectures, and the corpus beside them.

A rehearsal takes its inputs from here, so it needs neither hub nor GPU. Everything is
checked by digests that lie in the repository: a checkpoint by the `[files]` of its `standin.toml`,
the chat template and the corpus by `pins.toml`, which `python -m forge.inputs.standin` writes anew.
"""

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import ConfigDict

from forge.core import canonical
from forge.core.errors import FetchError
from forge.core.files import File, Origin, Watch, names_in, select, sha256_of, unwatched
from forge.core.model import Model, RelativePath, Sha256
from forge.recipes.recipe import CalibrationSet, Recipe

ROOT = Path(__file__).resolve().parents[2] / "standins"
PINS = "pins.toml"
TEMPLATE = "chat_template.jinja"
CHECKPOINT_TITLE = "Hallmark stand-in {}"
TEMPLATE_TITLE = "Hallmark's replacement chat template"
CORPUS_TITLE = "Hallmark corpus, {} part"
EVALUATION = "evaluation"
REQUEST = "Write an encyclopedia article about: {title}"
PINS_REMEDY = "Restore it with git, or pin it as it is with `python -m forge.inputs.standin`."
_PINS_HEADER = "# The chat template and the corpus. Written by: python -m forge.inputs.standin\n"

_Model = TypeVar("_Model", bound=Model)


class Card(Model):
    """What is read of a `standin.toml`; the rest of it tells how the stand-in was trained.

    That rest is for people, and a training may add to it, so unknown keys are passed over.
    """

    model_config = ConfigDict(extra="ignore")

    architecture: str
    files: dict[RelativePath, Sha256]


class Pins(Model):
    """The digests in `pins.toml`, by path below the folder of the stand-ins."""

    files: dict[RelativePath, Sha256]


def checkpoint(recipe: Recipe, globs: Sequence[str], root: Path) -> Origin:
    """The recipe's stand-in: the files of its checkpoint that the globs match.

    Raises:
        FetchError: its card is malformed, it is of another architecture, or a file is there that
            the card does not list or the other way round.
        OSError: there is no such stand-in, or the system does not let it be read.
    """
    card_path = root / recipe.standin / "standin.toml"
    card = _read(card_path, Card)
    if card.architecture != recipe.architecture:
        raise FetchError(
            f"{card_path}: the stand-in is a {card.architecture}, {recipe.name}.toml is for "
            f"{recipe.architecture}. Correct the recipe's `standin` or `architecture`."
        )
    folder = card_path.with_name("checkpoint")
    remedy = f"Restore it with git, or train the stand-in anew, which writes {card_path.name}."
    _require_same(folder, card.files, names_in(folder), remedy)
    names = select(card.files, globs, str(folder), strict=False)
    digests = {name: card.files[name] for name in names}
    return _origin(recipe.standin, CHECKPOINT_TITLE.format(recipe.standin), folder, digests, remedy)


def template(root: Path) -> Origin:
    """The chat template that a rehearsal puts in place of the base's.

    Raises:
        FetchError: `pins.toml` is malformed, or does not list the files there.
    """
    digests = {TEMPLATE: _pins(root)[TEMPLATE]}
    return _origin("template", TEMPLATE_TITLE, root, digests, PINS_REMEDY)


def corpus(part: str, root: Path, count: int | None = None) -> Origin:
    """The corpus' files of one part in the order of their names, or the first `count` of them.

    Raises:
        FetchError: `pins.toml` is malformed or does not list what is there, or the corpus has no
            such part.
    """
    pins = _pins(root)
    names = names_of(pins, part)
    if not names:
        raise FetchError(
            f"{root / 'corpus' / part}: the corpus has no such part; add files there and run "
            "`python -m forge.inputs.standin`."
        )
    digests = {name: pins[name] for name in names[:count]}
    return _origin("corpus", CORPUS_TITLE.format(part), root, digests, PINS_REMEDY)


def samples(wanted: CalibrationSet, root: Path) -> Origin:
    """What stands for a calibration set: articles, or the pictures of the set's configuration.

    Raises:
        FetchError: as :func:`corpus`.
    """
    part, count = part_of(wanted)
    return corpus(part, root, count)


def part_of(wanted: CalibrationSet) -> tuple[str, int | None]:
    """The part of the corpus that stands for a calibration set, and how many of its files."""
    if wanted.content == "image-text":
        return f"images/{wanted.config}", None
    return "calibration", wanted.samples


def names_of(pins: Iterable[str], part: str) -> list[str]:
    """The files of a part of the corpus, sorted."""
    return sorted(name for name in pins if name.startswith(f"corpus/{part}/"))


def conversation(article: Path) -> list[dict[str, str]]:
    """An article as a calibration sample: the request to write it, and its text.

    Raises:
        FetchError: the file is not a title, a blank line and paragraphs.
    """
    title, blank, body = article.read_text(encoding="utf-8").partition("\n\n")
    if not (blank and body.strip() and title.strip() and "\n" not in title):
        raise FetchError(f"{article}: must be a title, a blank line and paragraphs.")
    return [
        {"role": "user", "content": REQUEST.format(title=title)},
        {"role": "assistant", "content": body.strip()},
    ]


def pin(root: Path) -> None:
    """Writes `pins.toml` for the template and the corpus as they are now."""
    lines = [f'"{name}" = "{canonical.sha256_file(root / name)}"\n' for name in _names(root)]
    (root / PINS).write_text(_PINS_HEADER + "\n[files]\n" + "".join(lines), encoding="utf-8")


def parse(data: bytes, model: type[_Model]) -> _Model:
    """What a card or `pins.toml` says.

    Raises:
        ValueError: it is malformed, as TOML, UTF-8 and pydantic tell it.
    """
    return model.model_validate(tomllib.loads(data.decode("utf-8")))


def _pins(root: Path) -> Mapping[str, str]:
    digests = _read(root / PINS, Pins).files
    _require_same(root, digests, _names(root), PINS_REMEDY)
    return digests


def _names(root: Path) -> list[str]:
    return [TEMPLATE, *(f"corpus/{name}" for name in names_in(root / "corpus"))]


def _require_same(folder: Path, pinned: Iterable[str], present: Iterable[str], remedy: str) -> None:
    pinned, present = set(pinned), set(present)
    if differ := sorted(pinned ^ present):
        fault = "is pinned, but missing" if differ[0] in pinned else "is there, but not pinned"
        raise FetchError(f"{folder / differ[0]}: {fault}. {remedy}")


def _origin(what: str, name: str, folder: Path, digests: Mapping[str, str], remedy: str) -> Origin:
    def take(watch: Watch = unwatched) -> dict[str, File]:
        return {
            path: _check(folder / path, digest, remedy, watch)
            for path, digest in sorted(digests.items())
        }

    uri = f"standin:{what}"
    return Origin(
        kind="standin",
        uri=uri,
        revision=None,
        name=name,
        key=[uri, dict(digests)],
        take=take,
        folder=folder,
    )


def _check(path: Path, digest: str, remedy: str, watch: Watch) -> File:
    found = sha256_of(path, watch(path))
    if found != digest:
        raise FetchError(f"{path}: has sha256 {found}, pinned is {digest}. {remedy}")
    return File(path=path, sha256=found, bytes=path.stat().st_size)


def _read(path: Path, model: type[_Model]) -> _Model:
    try:
        return parse(path.read_bytes(), model)
    except ValueError as error:  # TOML, UTF-8 and pydantic raise kinds of it
        raise FetchError(f"{path}: malformed: {error}. Restore it.") from error


if __name__ == "__main__":
    pin(ROOT)
