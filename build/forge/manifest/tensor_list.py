"""`tensors.jsonl`: every stored tensor of a checkpoint, a line each, sorted by name."""

from typing import Annotated

from pydantic import Field

from forge.core.model import Model, RelativePath, Sha256

Size = Annotated[int, Field(ge=0)]


class TensorLine(Model):
    """A tensor of the checkpoint."""

    name: str
    dtype: str = Field(description="As the header of a safetensors file spells it.")
    shape: tuple[Size, ...]
    nbytes: Size
    sha256: Sha256 = Field(description="The SHA-256 of its stored bytes.")
    file: RelativePath = Field(description="The file that it lies in.")
