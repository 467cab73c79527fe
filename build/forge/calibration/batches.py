"""Calibration samples as a model takes them: one sample a batch, whatever memory there is.

Pixel values are large, so they are made once to measure a sample, and again when its turn comes.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forge.core import canonical
from forge.core.errors import CalibrationError
from forge.inputs import samples

if TYPE_CHECKING:
    import torch

    from forge.recipes.recipe import CalibrationSet, Recipe

Inputs = dict[str, "torch.Tensor"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """One sample: the arguments of the model's forward pass, and which of its parts they go to.

    `inputs` makes `input_ids` [1, tokens] and, with pictures, what the processor makes of them;
    `ids` are the former, `pictures` the sha256 of the latter's files.
    """

    set: str
    language_model_only: bool
    ids: tuple[int, ...]
    inputs: Callable[[], Inputs]
    pictures: tuple[str, ...] = ()

    def origin(self) -> dict[str, Any]:
        """What the record says of this sample."""
        digest = canonical.sha256_text(canonical.dumps(self.ids))
        return {"set": self.set, "tokens": len(self.ids), "sha256": digest} | (
            {"pictures": list(self.pictures)} if self.pictures else {}
        )


def read(recipe: "Recipe", inputs: Path) -> list[Batch]:
    """The samples of every set, in order.

    Raises:
        CalibrationError: a sample is empty, or has pictures and is longer than its set allows:
            text can be cut, pictures cannot.
    """
    batches = []
    for name, wanted in recipe.calibration.sets.items():
        path = inputs / "calibration" / name / samples.FILE
        make = _Pictures if wanted.content == "image-text" else _Text
        maker = make(inputs / "base", wanted)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            messages = json.loads(line)["messages"]
            inputs_of = partial(maker.inputs, messages, path.parent)
            ids = tuple(inputs_of()["input_ids"][0].tolist())
            if not 0 < len(ids) <= wanted.max_tokens:
                raise CalibrationError(
                    f"{path}, line {number}: has {len(ids)} tokens with its pictures; "
                    f"{recipe.name}.toml allows 1 to {wanted.max_tokens} in the set {name!r}."
                )
            batches.append(
                Batch(
                    set=name,
                    language_model_only=wanted.through == "language-model",
                    ids=ids,
                    inputs=inputs_of,
                    pictures=tuple(map(canonical.sha256_file, _files(messages, path.parent))),
                )
            )
    return batches


class _Text:
    """Text alone, cut to the set's length."""

    def __init__(self, base: Path, wanted: "CalibrationSet") -> None:
        from transformers import AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(base, trust_remote_code=False)
        self._wanted = wanted

    def inputs(
        self,
        messages: samples.Sample,
        folder: Path,  # noqa: ARG002 - as the other takes it
    ) -> Inputs:
        """The arguments of the forward pass."""
        import torch

        if self._wanted.chat_template:
            text = self._tokenizer.apply_chat_template(messages, tokenize=False)
        else:
            text = "\n\n".join(message["content"] for message in messages)
        ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return {"input_ids": torch.tensor([ids[: self._wanted.max_tokens]])}


class _Pictures:
    """Text and pictures through the base's own processor."""

    def __init__(self, base: Path, wanted: "CalibrationSet") -> None:  # noqa: ARG002
        from transformers import AutoProcessor

        self._processor = AutoProcessor.from_pretrained(base, trust_remote_code=False)

    def inputs(self, messages: samples.Sample, folder: Path) -> Inputs:
        """The arguments of the forward pass."""
        from PIL import Image

        pictures = [Image.open(path).convert("RGB") for path in _files(messages, folder)]
        text = self._processor.apply_chat_template(messages, tokenize=False)
        return dict(self._processor(text=[text], images=pictures, return_tensors="pt"))


def _files(messages: samples.Sample, folder: Path) -> Iterator[Path]:
    """The pictures of a sample, in order."""
    for message in messages:
        if isinstance(message["content"], list):
            yield from (
                folder / part["image"] for part in message["content"] if part["type"] == "image"
            )
