"""Calibration samples as a model takes them: one sample a batch, whatever memory there is.

A sample is a row of its data set, or several rows joined until it is full. Rows are joined here,
because only the base's tokenizer tells how many fill a sample.

Pixel values are large, so they are made once to measure a sample, and again when its turn comes.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forge.core import canonical
from forge.core.boundary import calling
from forge.core.errors import CalibrationError
from forge.inputs import sample_files

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from forge.recipes.recipe import CalibrationSet, Recipe

Inputs = dict[str, "torch.Tensor"]
# Shows how many of so many samples have passed; what is yielded is told of each.
Bar = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """One sample: the arguments of the model's forward pass, and which of its parts they go to.

    `inputs` makes `input_ids` [1, tokens] and, with pictures, what the processor makes of them;
    `ids` are the former, `pictures` the sha256 of the latter's files. `rows` are the first and the
    last row of the set that it is made of, counted from 0.
    """

    set: str
    language_model_only: bool
    ids: tuple[int, ...]
    rows: tuple[int, int]
    inputs: Callable[[], Inputs]
    pictures: tuple[str, ...] = ()

    def origin(self) -> dict[str, Any]:
        """What the record says of this sample."""
        digest = canonical.sha256_text(canonical.dumps(self.ids))
        told = {"set": self.set, "rows": list(self.rows), "tokens": len(self.ids), "sha256": digest}
        return told | ({"pictures": list(self.pictures)} if self.pictures else {})


@dataclass(frozen=True, kw_only=True)
class Joined:
    """The tokens of a sample, and the first and last row that they are from."""

    ids: tuple[int, ...]
    rows: tuple[int, int]


def no_bar(what: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
    """Shows nothing."""
    del what, total
    return nullcontext(lambda _: None)


def read(recipe: "Recipe", inputs: Path) -> list[Batch]:
    """The samples of every set, in order.

    Raises:
        CalibrationError: a sample is empty, or has pictures and is longer than its set allows:
            text can be cut, pictures cannot; or the rows of a set do not fill its samples; or
            transformers does not take the base's tokenizer, template or processor, or a sample (so
            noted on what it raises: :mod:`forge.core.boundary`).
    """
    batches: list[Batch] = []
    for name, wanted in recipe.calibration.sets.items():
        folder, base = inputs / "calibration" / name, inputs / "base"
        if (folder / sample_files.ROWS).is_file():
            batches += _joined(name, wanted, folder / sample_files.ROWS, _Text(base, wanted))
        else:
            make = _Pictures if wanted.content == "image-text" else _Text
            batches += _single(name, wanted, folder / sample_files.FILE, make(base, wanted))
    return batches


def join(rows: Iterable[Sequence[int]], count: int, tokens: int) -> Iterator[Joined]:
    """Up to `count` samples of exactly `tokens` tokens, of the rows' tokens in order.

    The row that fills a sample is cut there, and the next sample starts with the row after it. A
    sample that the rows do not fill is left out.
    """
    ids: list[int] = []
    first = made = 0
    for number, row in enumerate(rows):
        ids += row
        if len(ids) >= tokens:
            yield Joined(ids=tuple(ids[:tokens]), rows=(first, number))
            ids, first, made = [], number + 1, made + 1
        if made == count:
            return


def _joined(name: str, wanted: "CalibrationSet", path: Path, text: "_Text") -> list[Batch]:
    """Samples joined from rows; rows beyond the last sample are not looked at."""
    rows = (_tokens(name, where, text.ids(row, where)) for where, row in _lines(path))
    made = list(join(rows, wanted.samples, wanted.max_tokens))
    if len(made) < wanted.samples:
        raise CalibrationError(
            f"{path}: its rows, joined in order, fill {len(made)} samples of {wanted.max_tokens} "
            f"tokens; calibration.sets.{name} takes {wanted.samples}, and no row is used twice. "
            "Lower the set's samples or max_tokens."
        )
    return [
        Batch(
            set=name,
            language_model_only=wanted.through == "language-model",
            ids=sample.ids,
            rows=sample.rows,
            inputs=partial(_tensor, sample.ids),
        )
        for sample in made
    ]


def _single(
    name: str, wanted: "CalibrationSet", path: Path, maker: "_Text | _Pictures"
) -> Iterator[Batch]:
    """Samples of one row each."""
    for number, (where, messages) in enumerate(_lines(path)):
        inputs_of = partial(maker.inputs, messages, path.parent, where)
        ids = _tokens(name, where, inputs_of()["input_ids"][0].tolist())
        if len(ids) > wanted.max_tokens:
            raise CalibrationError(
                f"{where}: has {len(ids)} tokens with its pictures; calibration.sets.{name} "
                f"allows {wanted.max_tokens}, and pictures cannot be cut."
            )
        yield Batch(
            set=name,
            language_model_only=wanted.through == "language-model",
            ids=tuple(ids),
            rows=(number, number),
            inputs=inputs_of,
            pictures=tuple(map(canonical.sha256_file, _files(messages, path.parent))),
        )


def _lines(path: Path) -> Iterator[tuple[str, sample_files.Sample]]:
    """Each line's messages, and where it lies."""
    # Not splitlines(): a text may hold U+2028 and others that it takes for ends of lines.
    with path.open(encoding="utf-8", newline="\n") as lines:
        for number, line in enumerate(lines, start=1):
            yield f"{path}, line {number}", json.loads(line)["messages"]


def _tokens(name: str, where: str, ids: list[int]) -> list[int]:
    if not ids:
        raise CalibrationError(
            f"{where}: has 0 tokens; a row of calibration.sets.{name} needs at least one. Take "
            "another column or file in the recipe."
        )
    return ids


def _tensor(ids: Sequence[int]) -> Inputs:
    import torch

    return {"input_ids": torch.tensor([list(ids)])}


class _Text:
    """Text alone; a sample of one row is cut to the set's length."""

    def __init__(self, base: Path, wanted: "CalibrationSet") -> None:
        self._tokenizer = tokenizer_of(base)
        self._wanted = wanted

    def inputs(
        self,
        messages: sample_files.Sample,
        folder: Path,  # noqa: ARG002 - as the other takes it
        where: str,
    ) -> Inputs:
        """The arguments of the forward pass."""
        return _tensor(self.ids(messages, where)[: self._wanted.max_tokens])

    def ids(self, messages: sample_files.Sample, where: str) -> list[int]:
        """A row's tokens, rendered by itself, uncut; `where` it lies."""
        if self._wanted.chat_template:
            text = _rendered(self._tokenizer, messages, where)
        else:
            text = "\n\n".join(message["content"] for message in messages)
        with calling("transformers", CalibrationError, f"{where}: the base cannot tokenize it"):
            return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])


class _Pictures:
    """Text and pictures through the base's own processor."""

    def __init__(self, base: Path, wanted: "CalibrationSet") -> None:  # noqa: ARG002
        with calling("transformers", CalibrationError, f"{base}: the processor cannot be loaded"):
            from transformers import AutoProcessor

            self._processor = AutoProcessor.from_pretrained(base, trust_remote_code=False)

    def inputs(self, messages: sample_files.Sample, folder: Path, where: str) -> Inputs:
        """The arguments of the forward pass; `where` the sample lies."""
        import torchvision  # noqa: F401 - resizes for the processor; imported, it is in the key

        pictures = [_picture(path, where) for path in _files(messages, folder)]
        text = _rendered(self._processor, messages, where)
        with calling("transformers", CalibrationError, f"{where}: the base cannot process it"):
            return dict(self._processor(text=[text], images=pictures, return_tensors="pt"))


def tokenizer_of(base: Path) -> Any:
    """The base's tokenizer.

    Raises:
        CalibrationError: transformers does not load it (so noted on what it raises).
    """
    with calling("transformers", CalibrationError, f"{base}: the tokenizer cannot be loaded"):
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(base, trust_remote_code=False)


def _rendered(by: Any, messages: sample_files.Sample, where: str) -> str:
    """A sample as the chat template of a tokenizer or processor writes it."""
    what = f"{where}: the base's chat template does not render it"
    with calling("transformers", CalibrationError, what):
        return str(by.apply_chat_template(messages, tokenize=False))


def _picture(path: Path, where: str) -> "Image.Image":
    with calling("Pillow", CalibrationError, f"{where}: the picture {path} cannot be read"):
        from PIL import Image

        return Image.open(path).convert("RGB")


def _files(messages: sample_files.Sample, folder: Path) -> Iterator[Path]:
    """The pictures of a sample, in order."""
    for message in messages:
        if isinstance(message["content"], list):
            yield from (
                folder / part["image"] for part in message["content"] if part["type"] == "image"
            )
