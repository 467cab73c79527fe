"""The preflight: finds what would fail a build, before anything is fetched, hashed or calibrated.

It reads only configs and the headers of safetensors files. From the hub these are a few hundred
kilobytes, whatever the size of the repository.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from forge.core import console
from forge.core.files import names_in
from forge.inputs import decided, fetch, hub
from forge.tensors import admission, stop_tokens, tensor_list
from forge.tensors.admission import Offer
from forge.tensors.configs import CONFIG
from forge.tensors.family import Config
from forge.tensors.plan import head_source

if TYPE_CHECKING:
    from forge.core.results import Result
    from forge.pipeline import Job
    from forge.recipes.recipe import Recipe


def check(job: "Job") -> Offer:
    """Looks at the base, and at the donor of its head if that is needed, where they lie.

    Args:
        job: what is asked for, the origins of its inputs included.

    Returns:
        The base.

    Raises:
        BaseError, RecipeError, TensorFileError: as :func:`forge.tensors.admission.admit`, and
            `require_devices` of a build that is no rehearsal.
        FetchError: they cannot be had.
    """
    with _offered(job, "base") as base:
        admission.require_stripped(job.recipe, base.folder, names_in(base.folder))
        if head_source(job.recipe, base.tensors) != "donor":
            admission.admit(job.recipe, base, None)
        else:
            with _offered(job, "donor") as donor:
                admission.admit(job.recipe, base, donor)
        if not job.rehearsal:  # of a small stand-in, the report says on how many it fits
            admission.require_devices(job.recipe, base)
    console.say(f"   preflight  {len(base.tensors)} tensors of the base are what the recipe needs")
    return base


def check_fetched(job: "Job", base: Offer, fetched: "Result") -> None:
    """Looks at what only the bytes tell, by the digests that fetch took.

    Raises:
        BaseError: as :func:`forge.tensors.admission.require_tied` and `require_head`, and as
            :func:`forge.tensors.stop_tokens.require`.
    """
    lines = tensor_list.read(fetched.files / tensor_list.of_input("base"))
    if base.config is not None:
        digests = {name: line.sha256 for name, line in lines.items()}
        admission.require_tied(base.config, digests)
        _require_stops(job.recipe, base.config, fetched.files / "base")
    source, where = head_source(job.recipe, base.tensors), base.folder
    if source == "donor":
        lines = tensor_list.read(fetched.files / tensor_list.of_input("donor"))
        where = fetch.origin_of(job, "donor").folder or where
    if source is not None:
        admission.require_head(job.recipe, lines, where)


def _require_stops(recipe: "Recipe", config: Config, base: Path) -> None:
    """Looks at the files that say where an answer ends, unless the recipe strips what they say."""
    if stop_tokens.KEY in recipe.strip.get(stop_tokens.GENERATION, ()):
        return

    def read(name: str) -> bytes | None:
        path = base / name
        return path.read_bytes() if path.is_file() else None

    stop_tokens.require(read, config)


@contextmanager
def _offered(job: "Job", role: str) -> Iterator[Offer]:
    """A checkpoint by its role; of one that lies on the hub, the headers and the config."""
    origin = fetch.origin_of(job, role)
    if origin.folder is not None:
        yield admission.read(origin.folder)
        return
    source, cache = job.recipe.sources[role], job.store.root / "hub"
    beside = [CONFIG, *(job.recipe.strip if role == "base" else ())]
    with hub.readable(cache):
        # Where nothing is left to fetch, the hub is not asked.
        if (there := hub.downloaded(source, cache, beside)) is not None:
            yield admission.read(there)
            return
        with job.store.scratch("preflight") as folder:
            hub.outline(source, decided.globs_of(source), cache, folder)
            yield admission.read(folder)
