"""The figures of the structural checks: of what is stored, without an engine."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Self

from pydantic import Field, model_validator

from forge.core.model import Maybe, Model
from forge.manifest.measured import Amount, Count, Figures, Some, Wrong, listed
from forge.recipes.recipe import Recipe


class Index(Figures):
    """The tensors that the files hold, and what the index declares."""

    tensors: Some
    bytes: Some
    declared: Count | None = Field(description="`total_size` of the index; null if it has none.")

    def problem(self, recipe: Recipe) -> str | None:
        """The index declares what the files hold."""
        del recipe
        if self.declared == self.bytes:
            return None
        return f"the index declares {self.declared} bytes of tensors, the files hold {self.bytes}"


class Names(Figures):
    """The tensors that should be stored, and those that are."""

    expected: Some
    stored: Some
    removed: Count = Field(description="How many of the base are left out on purpose.")
    missing: Wrong
    extra: Wrong

    @model_validator(mode="after")
    def _add_up(self) -> Self:
        if self.expected - len(self.missing) != self.stored - len(self.extra):
            raise ValueError("expected and stored differ by more than what is missing and extra")
        return self

    def problem(self, recipe: Recipe) -> str | None:
        """None is missing, none is extra."""
        del recipe
        return listed(self.missing, "missing") or listed(self.extra, "extra")


class Digests(Figures):
    """Files and tensors that were compared with their digests from when they were written."""

    files: Some
    tensors: Some
    wrong: Wrong

    def problem(self, recipe: Recipe) -> str | None:
        """All are what was written."""
        del recipe
        return listed(self.wrong, "files and tensors are not what was written")


class Sources(Figures):
    """Tensors of base and donor that were compared with what was fetched."""

    tensors: Some
    wrong: Wrong

    def problem(self, recipe: Recipe) -> str | None:
        """All are what was fetched."""
        del recipe
        return listed(self.wrong, "tensors of base and donor changed since they were fetched")


class Head(Figures):
    """The tensors of the MTP head: of the recipe, stored, and equal to their source."""

    tensors: Some
    stored: Count
    equal: Count
    bytes: Count = Field(description="Of those that are stored.")
    wrong: Wrong = Field(description="Those that are not equal, or should not be stored.")

    @model_validator(mode="after")
    def _no_more_than_there_are(self) -> Self:
        if self.equal > min(self.stored, self.tensors):
            raise ValueError("more are equal than are stored, or than there are")
        if (self.stored == 0) != (self.bytes == 0):
            raise ValueError("tensors without bytes, or bytes without tensors")
        return self

    def problem(self, recipe: Recipe) -> str | None:
        """All of the recipe's are equal, or none is stored if the recipe drops the head."""
        if self.tensors != len(recipe.mtp.tensors):
            return f"{self.tensors} tensors, the recipe has {len(recipe.mtp.tensors)}"
        if recipe.mtp.source == "dropped":
            if self.stored or self.wrong:
                return f"{self.stored} tensors are stored, the recipe drops them"
            return None
        if not self.tensors == self.stored == self.equal:
            told = listed(self.wrong, "are not") or f"{self.stored} are stored"
            return f"{self.equal} of {self.tensors} tensors equal the source byte for byte; {told}"
        return listed(self.wrong, "are not equal to their source")


class Kept(Figures):
    """Tensors copied from the base, and how many of them are equal byte for byte."""

    tensors: Some
    equal: Count
    bytes: Count
    wrong: Wrong

    @model_validator(mode="after")
    def _add_up(self) -> Self:
        if self.equal + len(self.wrong) != self.tensors:
            raise ValueError("those that are equal and those that are not are not all")
        return self

    def problem(self, recipe: Recipe) -> str | None:
        """All are equal."""
        del recipe
        if self.equal == self.tensors and self.bytes:
            return None
        told = listed(self.wrong, "are not")
        return f"{self.equal} of {self.tensors} tensors equal the source byte for byte; {told}"


class Quantized(Figures):
    """Quantized linears, and the tensors that stand for them."""

    linears: Some
    tensors: Some
    wrong: Wrong

    @model_validator(mode="after")
    def _more_tensors(self) -> Self:
        if self.tensors <= self.linears:
            raise ValueError("a quantized linear has several tensors")
        return self

    def problem(self, recipe: Recipe) -> str | None:
        """All have the dtype and shape of their format."""
        del recipe
        return listed(self.wrong, "tensors with a wrong dtype or shape")


class Scales(Figures):
    """The values of all scales."""

    scales: Some
    wrong: Wrong

    def problem(self, recipe: Recipe) -> str | None:
        """All are finite and positive, and none is a subnormal number."""
        del recipe
        return listed(self.wrong, "scales that are missing, not finite and positive, or subnormal")


class Siblings(Figures):
    """The global scales of linears that engines put into one matrix."""

    fused: Count
    wrong: Wrong

    @model_validator(mode="after")
    def _no_more_than_there_are(self) -> Self:
        if len(self.wrong) > self.fused:
            raise ValueError("more differ than there are")
        return self

    def problem(self, recipe: Recipe) -> str | None:
        """None differs from that of its siblings."""
        del recipe
        return listed(self.wrong, "global scales differ among the linears that engines fuse")


class Parallel(Figures):
    """On how many devices engines can divide the checkpoint (tensor parallelism)."""

    devices: dict[str, Wrong] = Field(
        min_length=1,
        description="By their number, what cannot be divided among them; nothing if all can.",
    )

    def problem(self, recipe: Recipe) -> str | None:
        """It can be served on as many as the recipe says."""
        for count in sorted(recipe.serve.devices):
            wrong = self.devices.get(str(count))
            if wrong is None:
                return f"it was not looked whether {count} devices can have it"
            if told := listed(wrong, f"parts cannot be divided among {count} devices"):
                return told
        return None

    @property
    def told(self) -> str:
        """The numbers of devices that can have it."""
        fits = [count for count, wrong in self.devices.items() if not wrong]
        return f"on {', '.join(sorted(fits, key=int))} devices"


class Misread(Model):
    """How many layers a reader takes for something else than is stored; one stops it."""

    layers: Count
    first: Maybe[str] = None

    @model_validator(mode="after")
    def _one_is_named(self) -> Self:
        if (self.layers == 0) != (self.first is None):
            raise ValueError("the first one is named exactly if there are any")
        return self


class Ignore(Figures):
    """The linears that are quantized and those that are not, and the lists of the latter."""

    quantized: Some
    not_quantized: Count
    entries: dict[str, Count] = Field(min_length=1, description="Of the list in each file.")
    wrong: Wrong
    readers: dict[str, Misread] = Field(
        min_length=1, description="How others than vLLM read the lists and groups."
    )

    @staticmethod
    def read(mistaken: Mapping[str, Sequence[str]]) -> dict[str, Misread]:
        """`readers`, by what each of them takes for something else."""
        return {
            reader: Misread(layers=len(layers), first=next(iter(layers), None))
            for reader, layers in mistaken.items()
        }

    def problem(self, recipe: Recipe) -> str | None:
        """The lists are the recipe's; vLLM and the recipe's readers take them as what is stored."""
        for reader in recipe.gates.readers:
            misread = self.readers.get(reader)
            if misread is None:
                return f"it was not looked how {reader} reads the lists"
            if misread.layers:
                return (
                    f"{reader} takes {misread.layers} layers for something else than is stored: "
                    f"{misread.first}, ..."
                )
        return listed(self.wrong, "mistakes in the lists of what is not quantized")

    @property
    def told(self) -> str:
        """The counts, and who else can read it."""
        able = [reader for reader, misread in self.readers.items() if not misread.layers]
        others = f"also read by {', '.join(able)}" if able else "read by vLLM alone"
        return f"{super().told}, {others}"


class Declared(Figures):
    """The files that declare the quantization."""

    files: Some
    kv_cache: str | None
    wrong: Wrong

    def problem(self, recipe: Recipe) -> str | None:
        """They declare what the recipe says."""
        if self.kv_cache != recipe.layout.kv_cache:
            return f"the KV cache is {self.kv_cache}, the recipe says {recipe.layout.kv_cache}"
        return listed(self.wrong, "declarations are not the recipe's")


class Files(Figures):
    """The files beside the weights, and how many of them were compared with where they are from."""

    files: Some
    compared: Some
    wrong: Wrong

    def problem(self, recipe: Recipe) -> str | None:
        """They are the base's, edited as the recipe says and no further."""
        del recipe
        return listed(self.wrong, "files are not as they should be")


class Worst(Model):
    """The linears of a format, and the one whose relative error |Q - W| / |W| is the largest."""

    linears: Some
    module: str
    relative: Annotated[Amount | None, Field(description="Null if it is infinite.")]


class Weights(Figures):
    """The errors of the quantized linears, by format."""

    formats: dict[str, Worst] = Field(min_length=1)
    zeros: tuple[str, ...] = Field(description="The linears that are zero in the base.")

    def problem(self, recipe: Recipe) -> str | None:
        """Every linear stands for the base's weight, but for what its format rounds."""
        limits = {str(name): limit for name, limit in recipe.gates.max_error.items()}
        if limits.keys() != self.formats.keys():
            return f"of {', '.join(sorted(self.formats))}, the recipe has {', '.join(limits)}"
        for name, worst in sorted(self.formats.items()):
            if worst.relative is None or worst.relative > limits[name]:
                off = "infinitely" if worst.relative is None else f"by {worst.relative:.4g}"
                return (
                    f"{worst.module}: is off {off}, more than rounding to {name} explains "
                    f"({limits[name]} of its norm)"
                )
        return None

    @property
    def linears(self) -> int:
        """How many there are."""
        return sum(worst.linears for worst in self.formats.values())

    @property
    def told(self) -> str:
        """The worst of each format."""
        words = [
            f"{name}: {worst.linears} linears, the worst {worst.module} off by {worst.relative}"
            for name, worst in sorted(self.formats.items())
        ]
        return ", ".join([*words, f"{len(self.zeros)} are zero in the base"])
