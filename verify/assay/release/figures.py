"""Derives the figures of a report's structural checks again, all of them, and compares.

Each is a count, a size or a list that follows from the stored tensors, the lists of the inputs, the
recipe and the errors of the linears. So a report cannot say of the stored files what they deny.
What an engine answered cannot be derived; that it was asked for the stop tokens there are, can.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from assay.release.differing import difference
from forge.checkpoint import dress
from forge.core import canonical
from forge.core.errors import ReleaseError
from forge.manifest import stored_figures as stored
from forge.manifest.measured import Figures
from forge.manifest.probe_figures import Stop
from forge.manifest.verification import Report
from forge.recipes.recipe import Recipe
from forge.tensors import configs, figures, other_names
from forge.tensors.configs import CONFIG, QUANT_CONFIG
from forge.tensors.family import Config
from forge.tensors.plan import Plan
from forge.tensors.tensorfile import DTYPE_BYTES, Tensor
from forge.tensors.weight_errors import Error


@dataclass(frozen=True, kw_only=True)
class Derived:
    """What a release was derived to be, which it is.

    Attributes:
        recipe: its recipe.
        plan: what became of each tensor of the base.
        head: the tensors of the MTP head that are stored, by name.
        config: the base's.
        stored: the stored tensors by name.
        built: the files of the checkpoint.
        fetched: what fetch left, by path.
        errors: those of the linears; none if the build was not verified.
        stops: the tokens that end a text, by `generation_config.json`.
    """

    recipe: Recipe
    plan: Plan
    head: tuple[str, ...]
    config: Config
    stored: Mapping[str, Tensor]
    built: frozenset[str]
    fetched: frozenset[str]
    errors: tuple[Error, ...]
    stops: tuple[int, ...]

    @property
    def told(self) -> str:
        """How many tensors are of either kind, in words."""
        kept = len(self.plan.keep) + len(self.head)
        return f"{kept} tensors are those of the inputs, {len(self.plan.linears)} are packed"

    def bytes_of(self, names: tuple[str, ...]) -> int:
        """The bytes of some stored tensors."""
        return sum(self.stored[name].nbytes for name in names)


def check(report: Report, made: Derived, where: str) -> None:
    """Holds the figures of the structural checks to what the release gives.

    Raises:
        ReleaseError: naming the first check and figure that differ.
    """
    for one in report.checks:
        if one.measured is None or (derive := DERIVED.get(one.name)) is None:
            continue
        said, given = (
            canonical.dumps(some.as_json()).encode() for some in (one.measured, derive(made))
        )
        if said != given:
            raise ReleaseError(f"{where}: {one.name}: {difference(said, given)}.")
    if (ended := report.figures(Stop)) is not None:
        tokens = tuple(one.token for one in ended.ended)
        if tokens != made.stops:
            raise ReleaseError(
                f"{where}: smoke.stop: ended texts with the tokens {[*tokens]}, "
                f"generation_config.json has {[*made.stops]}."
            )


def _index(made: Derived) -> Figures:
    total = made.bytes_of(tuple(made.stored))
    return stored.Index(tensors=len(made.stored), bytes=total, declared=total)


def _names(made: Derived) -> Figures:
    count = len(made.stored)
    return stored.Names(
        expected=count, stored=count, removed=len(made.plan.removed), missing=(), extra=()
    )


def _digests(made: Derived) -> Figures:
    return stored.Digests(files=len(made.built), tensors=len(made.stored), wrong=())


def _sources(made: Derived) -> Figures:
    """Several linears may lie in one tensor of the base."""
    packed = {linear.place.tensor for linear in made.plan.linears.values()}
    count = len({*made.plan.keep} | packed) + len(made.head)
    return stored.Sources(tensors=count, wrong=())


def _head(made: Derived) -> Figures:
    return stored.Head(
        tensors=len(made.recipe.mtp.tensors),
        stored=len(made.head),
        equal=len(made.head),
        bytes=made.bytes_of(made.head),
        wrong=(),
    )


def _kept(made: Derived) -> Figures:
    count, size = len(made.plan.keep), made.bytes_of(made.plan.keep)
    return stored.Kept(tensors=count, equal=count, bytes=size, wrong=())


def _quantized(made: Derived) -> Figures:
    linears = made.plan.linears.values()
    tensors = sum(len(one.format.specs(one.module, one.place.shape)) for one in linears)
    return stored.Quantized(linears=len(linears), tensors=tensors, wrong=())


def _scales(made: Derived) -> Figures:
    tensors = [
        made.stored[f"{one.module}.{suffix}"]
        for one in made.plan.linears.values()
        for suffix in one.format.scales
    ]
    return stored.Scales(
        scales=sum(tensor.nbytes // DTYPE_BYTES[tensor.dtype] for tensor in tensors), wrong=()
    )


def _siblings(made: Derived) -> Figures:
    return stored.Siblings(fused=len(figures.fused_scales(made.plan)), wrong=())


def _devices(made: Derived) -> Figures:
    return figures.devices(made.recipe, made.plan, made.config)


def _ignore(made: Derived) -> Figures:
    specs = [tensor.spec for tensor in made.stored.values()]
    linears = configs.linears(specs, made.plan)
    ignore = configs.ignore_list(made.recipe, specs)
    plain = sum(kind is None for kind in linears.values())
    config = configs.quantization_config(made.recipe, ignore)
    return stored.Ignore(
        quantized=len(linears) - plain,
        not_quantized=plain,
        entries=dict.fromkeys(_declaring(made.recipe), len(ignore)),
        wrong=(),
        readers=stored.Ignore.read(other_names.mistaken(config, linears)),
    )


def _declared(made: Derived) -> Figures:
    count = len(_declaring(made.recipe))
    return stored.Declared(files=count, kv_cache=made.recipe.layout.kv_cache, wrong=())


def _declaring(recipe: Recipe) -> list[str]:
    """The files that declare the quantization."""
    return [CONFIG, *({QUANT_CONFIG} & configs.made_files(recipe))]


def _files(made: Derived) -> Figures:
    """Those are compared that are an input's as they are, or edited."""
    carried, edited = dress.carried(made.recipe, made.fetched), configs.edited_files(made.recipe)
    compared = len(carried) + len(edited)
    return stored.Files(files=len(made.built), compared=compared, wrong=())


def _weights(made: Derived) -> Figures:
    return figures.weights(made.errors)


DERIVED: Mapping[str, Callable[[Derived], Figures]] = {
    "structure.index": _index,
    "structure.names": _names,
    "structure.digests": _digests,
    "structure.sources": _sources,
    "structure.mtp": _head,
    "structure.kept": _kept,
    "structure.quantized": _quantized,
    "structure.scales": _scales,
    "structure.siblings": _siblings,
    "structure.parallel": _devices,
    "structure.ignore": _ignore,
    "structure.config": _declared,
    "structure.files": _files,
    "structure.weights": _weights,
}
