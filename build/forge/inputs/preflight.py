"""The preflight: finds what would fail a build, before anything is fetched, hashed or calibrated.

It reads only configs and the headers of safetensors files. From the hub these are a few hundred
kilobytes, whatever the size of the repository.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from glob import has_magic
from pathlib import Path
from typing import TYPE_CHECKING

from forge.core import console
from forge.core.files import names_in, select
from forge.inputs import decided, fetch, hub, mirror
from forge.tensors import admission, stop_tokens, tensor_list
from forge.tensors.admission import Offer
from forge.tensors.configs import CONFIG
from forge.tensors.family import Config
from forge.tensors.plan import head_source

if TYPE_CHECKING:
    from forge.core.results import Result
    from forge.pipeline import Job
    from forge.recipes.recipe import Recipe

TOLD = 10  # names of files that are told


def check(job: "Job") -> Offer:
    """Looks at the base, and at the donor of its head if that is needed, where they lie.

    Args:
        job: what is asked for, the origins of its inputs included.

    Returns:
        The base.

    Raises:
        BaseError, RecipeError, TensorFileError: as :func:`forge.tensors.admission.admit`,
            `require_beside`, and `require_devices` of a build that is no rehearsal; as
            :func:`forge.tensors.stop_tokens.require`, as far as small files tell.
        FetchError: they cannot be had.
    """
    with _offered(job, "base") as (base, left):
        taken = [name for name in names_in(base.folder) if name not in left]
        admission.require_stripped(job.recipe, base.folder, taken)
        if head_source(job.recipe, base.tensors) != "donor":
            config = admission.admit(job.recipe, base, None)
        else:
            with _offered(job, "donor") as (donor, _):
                config = admission.admit(job.recipe, base, donor)
        admission.require_beside(job.recipe, base.folder, taken)
        _require_stops(job.recipe, config, base.folder, admission.SMALL)
        if not job.rehearsal:  # of a small stand-in, the report says on how many it fits
            admission.require_devices(job.recipe, base)
    console.say(f"   preflight  {len(base.tensors)} tensors of the base are what the recipe needs")
    if left:
        more = f" and {len(left) - TOLD} more" if len(left) > TOLD else ""
        console.say(f"   preflight  not taken of the base: {', '.join(left[:TOLD])}{more}")
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


def _require_stops(recipe: "Recipe", config: Config, base: Path, most: float = math.inf) -> None:
    """Looks at the files that say where an answer ends, unless the recipe strips what they say.

    Files of more than `most` bytes are passed over.
    """
    if stop_tokens.KEY in recipe.strip.get(stop_tokens.GENERATION, ()):
        return

    def read(name: str) -> bytes | None:
        path = base / name
        return path.read_bytes() if path.is_file() and path.stat().st_size <= most else None

    stop_tokens.require(read, config)


@contextmanager
def _offered(job: "Job", role: str) -> Iterator[tuple[Offer, list[str]]]:
    """A checkpoint by its role, and its files that are not taken, as far as they are known.

    Of one that lies on the hub, it has the headers and the small files of JSON.
    """
    origin, recipe = fetch.origin_of(job, role), job.recipe
    if origin.folder is not None:
        yield admission.read(origin.folder), _left(job, role, origin.folder)
        return
    source, cache = recipe.sources[role], job.store.root / "hub"
    globs, also = decided.globs_of(source), decided.beside(recipe, role)
    whole = [CONFIG, *(one for one in globs if not has_magic(one))]
    with hub.readable(cache):
        there = hub.downloaded(source, cache, whole)
        # Where nothing is left to fetch, the hub is not asked.
        if there is not None and (role != "base" or not admission.lacking(recipe, names_in(there))):
            yield admission.read(there), _left(job, role, there)
            return
        with job.store.scratch("preflight") as folder:
            left = hub.outline(source, globs, cache, folder, also)
            yield admission.read(folder), left


def _left(job: "Job", role: str, folder: Path) -> list[str]:
    """The files of a folder that are not taken of an input."""
    globs = decided.base_globs(job.recipe) if role == "base" else decided.donated_globs(job.recipe)
    names = {*names_in(folder)} - {mirror.SUMS}
    return sorted(names - {*select(names, globs, str(folder), strict=False)})
