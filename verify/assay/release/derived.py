"""Derives a checkpoint from what was fetched, without a weight of it, and compares.

The lists of the tensors of base and donor, the recipe and the base's config give every tensor that
is stored, where, and of all that is not packed the digest; and every file beside the weights, byte
for byte, by the functions that the build uses. What is left is what packed weights and calibrated
maxima are, which a rebuild shows.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import numpy as np

from assay.release import block_scales
from assay.release.asked import require_told
from assay.release.figures import Derived
from assay.release.known import BESIDE
from forge.calibration import decided, record
from forge.checkpoint import dress, graft, layout
from forge.core.errors import ReleaseError
from forge.manifest.names import ERRORS, PROVENANCE, listing_of, original_of
from forge.manifest.provenance import Manifest
from forge.manifest.tensor_list import TensorLine
from forge.recipes.recipe import Recipe
from forge.tensors import admission, configs, stop_tokens, tensor_list, tensorfile, weight_errors
from forge.tensors.admission import Offer
from forge.tensors.configs import CONFIG
from forge.tensors.family import Config
from forge.tensors.plan import Plan, head_source, make_plan
from forge.tensors.small_floats import SMALLEST_NORMAL
from forge.tensors.tensorfile import DTYPE_BYTES, SUFFIX, Spec, Tensor
from forge.tensors.weight_errors import Error

Lines = Mapping[str, TensorLine]


@dataclass(frozen=True, kw_only=True)
class Here:
    """What is there.

    Attributes:
        checkpoint: the sha256 of the files that were built, by path.
        tensors: the stored tensors by name, file by file in the order of their data.
        lines: the same by the list of the release, which has their digests.
        numbers: the bytes of the stored tensors that are one number, by name.
        extremes: the smallest and the largest bits of the scales of blocks and rows, by name.
        record: the tensors of the calibration record, and `maxima` the bytes of each by name.
        data: gives a file of the provenance, or a small one of the checkpoint.
    """

    checkpoint: Mapping[str, str]
    tensors: Mapping[str, Tensor]
    lines: Lines
    numbers: Mapping[str, bytes]
    extremes: Mapping[str, tuple[int, int]]
    record: Sequence[Tensor]
    maxima: Mapping[str, bytes]
    data: Callable[[str], bytes]


def check(manifest: Manifest, recipe: Recipe, here: Here) -> Derived:
    """Compares the files with what the inputs give, and returns the latter.

    Raises:
        ReleaseError: naming the first file or tensor that is something else.
        BaseError, RecipeError, QuantizeError, DressError, CalibrationError, TensorFileError: the
            inputs that the release states give no checkpoint.
    """
    _require_provenance(manifest, recipe)
    base = _listed(manifest, "base", here)
    source = head_source(recipe, base)
    giver = {"base": base, "donor": _listed(manifest, "donor", here), None: {}}[source]
    fetched = manifest.steps["fetch"].annotations.outputs
    originals = {
        path: here.data(f"{PROVENANCE}/{original_of(path)}")
        for path in configs.originals(recipe, fetched)
    }
    config = _require_fit(recipe, base, giver, originals, source)
    plan = make_plan(recipe, base)
    head = {name: giver[name] for name in recipe.mtp.tensors} if source else {}
    _require_layout(_layout(recipe, plan, base, head), here.tensors)
    _require_copied({name: base[name] for name in plan.keep} | head, here.lines)
    _require_scales(plan, here.numbers)
    block_scales.check(plan, here.extremes, here.numbers)
    placed = [(tensor.file.name, tensor.spec) for tensor in here.tensors.values()]
    made = dress.made(recipe, plan, originals, placed, source)
    _require_files(manifest, recipe, made, here)
    of_result = {name: here.data(name) for name in stop_tokens.FILES if name in here.checkpoint}
    stops = stop_tokens.require(of_result.get, replace(config, path=Path(CONFIG)))
    told = {name: step.annotations.parameters for name, step in manifest.steps.items()}
    groups = configs.quantization_config(recipe, []).get("config_groups")
    require_told("calibrate", told["calibrate"], decided.parameters(recipe, plan, groups))
    require_told("graft", told["graft"], graft.decided(recipe, source))
    _require_record(recipe, plan, here)
    return Derived(
        recipe=recipe,
        plan=plan,
        head=tuple(head),
        config=config,
        stored=here.tensors,
        built=frozenset(here.checkpoint),
        fetched=frozenset(fetched),
        errors=_require_errors(manifest, recipe, plan, here),
        stops=stops,
    )


def _require_provenance(manifest: Manifest, recipe: Recipe) -> None:
    """Holds what is kept of the inputs to what was fetched; there is nothing else beside it."""
    fetched = manifest.steps["fetch"].annotations.outputs
    lists = {listing_of(role): tensor_list.of_input(role) for role in ("base", "donor")}
    wanted = {name: path for name, path in lists.items() if path in fetched}
    wanted |= {original_of(path): path for path in configs.originals(recipe, fetched)}
    there = manifest.results
    for name, path in wanted.items():
        found = there.get(f"{PROVENANCE}/{name}", "nothing")
        if found != fetched.get(path):
            raise ReleaseError(
                f"{PROVENANCE}/{name}: has sha256 {found}, {path} was fetched with "
                f"{fetched.get(path, 'nothing')}."
            )
    known = {*BESIDE, f"{PROVENANCE}/{ERRORS}", *(f"{PROVENANCE}/{name}" for name in wanted)}
    beside = {name for name in there if name.startswith(f"{PROVENANCE}/")}
    if extra := sorted(beside - known):
        raise ReleaseError(f"{extra[0]}: is not a file that a build of this recipe writes.")


def _listed(manifest: Manifest, role: str, here: Here) -> dict[str, TensorLine]:
    """The tensors of an input by name, in the order of their data; nothing if there is no list."""
    name = f"{PROVENANCE}/{listing_of(role)}"
    if name not in manifest.results:
        return {}
    lines = tensor_list.parse(here.data(name), name)
    if list(lines.values()) != sorted(lines.values(), key=tensor_list.by_file):
        raise ReleaseError(f"{name}: is not in the order in which the files are read.")
    sizes = {one.name: one.annotations.bytes for one in manifest.inputs}
    files: dict[str, int] = defaultdict(int)
    for line in lines.values():
        if line.dtype not in DTYPE_BYTES or line.nbytes != _spec(line).nbytes:
            raise ReleaseError(
                f"{name}: {line.name} has {line.nbytes} bytes, {line.dtype} {list(line.shape)} "
                "does not."
            )
        files[line.file] += line.nbytes
    weights = {one for one in sizes if one.startswith(f"{role}/") and one.endswith(SUFFIX)}
    if differing := sorted(weights ^ {f"{role}/{file}" for file in files}):
        raise ReleaseError(f"{name}: the tensors of {differing[0]} are not those of an input.")
    for file, total in files.items():
        specs = [_spec(line) for line in lines.values() if line.file == file]
        least = total + len(tensorfile.header_bytes(specs)) - 8  # the padding may be another
        if sizes[f"{role}/{file}"] < least:
            raise ReleaseError(
                f"{name}: {role}/{file} has {sizes[f'{role}/{file}']} bytes, its tensors need "
                f"{least}."
            )
    return lines


def _spec(line: TensorLine) -> Spec:
    return Spec(name=line.name, dtype=line.dtype, shape=line.shape)


def _require_fit(
    recipe: Recipe,
    base: Lines,
    giver: Lines,
    originals: Mapping[str, bytes],
    source: str | None,
) -> Config:
    """Asks of the inputs what a build asks of them before it begins; the base's config."""
    donor = _offer("donor", giver, originals) if source == "donor" else None
    config = admission.admit(recipe, _offer("base", base, originals), donor)
    if source is not None:
        admission.require_head(recipe, giver, Path(source))
    admission.require_tied(config, {name: line.sha256 for name, line in base.items()})
    return config


def _offer(role: str, lines: Lines, originals: Mapping[str, bytes]) -> Offer:
    """An input as its list and its config, which was kept, describe it."""
    path = f"{role}/{CONFIG}"
    return Offer(
        folder=Path(role),
        config=admission.parse_config(originals[path], Path(path)) if path in originals else None,
        tensors={
            name: Tensor(
                name=name,
                dtype=line.dtype,
                shape=line.shape,
                file=Path(role) / line.file,
                offset=0,
                nbytes=line.nbytes,
            )
            for name, line in lines.items()
        },
    )


def _layout(recipe: Recipe, plan: Plan, base: Lines, head: Lines) -> dict[str, list[Spec]]:
    """The tensors that each shard should have, in their order."""
    specs = {name: _spec(line) for name, line in base.items()}
    shards = layout.body(specs, plan, recipe.layout.shard_bytes)
    own = {layout.HEAD: layout.head(_spec(line) for line in head.values())} if head else {}
    return shards | own


def _require_layout(expected: Mapping[str, Sequence[Spec]], stored: Mapping[str, Tensor]) -> None:
    """Holds the stored tensors to those that there should be: names, forms, files, places."""
    found: dict[str, list[Tensor]] = defaultdict(list)
    for tensor in stored.values():
        found[tensor.file.name].append(tensor)
    names = {spec.name: file for file, specs in expected.items() for spec in specs}
    for name, file in names.items():
        if name not in stored:
            raise ReleaseError(f"{name}: is not stored; by the recipe it lies in {file}.")
    for name, tensor in stored.items():
        if names.get(name) != tensor.file.name:
            place = names.get(name, "no file")
            raise ReleaseError(f"{name}: lies in {tensor.file.name}, by the recipe in {place}.")
    for file, specs in expected.items():
        offset = len(tensorfile.header_bytes(specs))
        for spec, tensor in zip(specs, found[file], strict=True):
            if tensor.spec != spec:
                raise ReleaseError(
                    f"{file}: has {tensor.name} {tensor.dtype} {list(tensor.shape)} where "
                    f"{spec.name} {spec.dtype} {list(spec.shape)} should be."
                )
            if tensor.offset != offset:
                raise ReleaseError(f"{file}: its header is not the one that a build writes.")
            offset += spec.nbytes


def _require_copied(expected: Lines, lines: Lines) -> None:
    """Holds what is copied to the digests that it had in the inputs."""
    for name, line in expected.items():
        if lines[name].sha256 != line.sha256:
            raise ReleaseError(
                f"{name}: has sha256 {lines[name].sha256}, in the inputs {line.sha256}."
            )


def _require_scales(plan: Plan, stored: Mapping[str, bytes]) -> None:
    """Refuses global scales that no weight gives, or that linears of one group do not share."""
    for group in plan.groups:
        for suffix in plan.linears[group[0]].format.global_scales:
            read = {module: _value(stored[f"{module}.{suffix}"]) for module in group}
            for module, value in read.items():
                if not SMALLEST_NORMAL <= value < float("inf"):
                    raise ReleaseError(f"{module}.{suffix}: is {value}, which is no scale.")
                if value != read[group[0]]:
                    raise ReleaseError(
                        f"{module}.{suffix}: is {value}, that of {group[0]} is {read[group[0]]}, "
                        "and they share their maxima."
                    )


def _value(data: bytes) -> float:
    return float(np.frombuffer(data, dtype="<f4")[0])


def _require_files(
    manifest: Manifest, recipe: Recipe, made: Mapping[str, bytes], here: Here
) -> None:
    """Holds the files beside the weights to the inputs: as they are, or edited by the recipe."""
    fetched = manifest.steps["fetch"].annotations.outputs
    expected = {name: fetched[path] for name, path in dress.carried(recipe, fetched).items()}
    expected |= {name: sha256(data).hexdigest() for name, data in made.items()}
    found = {name: digest for name, digest in here.checkpoint.items() if not name.endswith(SUFFIX)}
    for name in sorted(expected.keys() | found.keys()):
        is_, should = found.get(name, "nothing"), expected.get(name, "nothing")
        if is_ != should:
            whose = "edited by the recipe" if name in made else "as fetched"
            raise ReleaseError(f"{name}: has sha256 {is_}, {whose} it has {should}.")


def _require_record(recipe: Recipe, plan: Plan, here: Here) -> None:
    """Holds the calibration record to the linears that are calibrated, and to its own words."""
    path = Path(PROVENANCE) / record.FILE
    record.parse(
        path, here.record, lambda tensor: here.maxima.get(tensor.name, b""), plan.calibrated
    )
    stated = record.parse_origin(path, here.data(str(path))).get("calibration_sha256")
    if stated != (expected := decided.digest(recipe, plan)):
        raise ReleaseError(
            f"{path}: was made by the calibration {stated}, the recipe's is {expected}."
        )


def _require_errors(
    manifest: Manifest, recipe: Recipe, plan: Plan, here: Here
) -> tuple[Error, ...]:
    """Holds the errors that the assay took to the linears, and to what their formats round."""
    name = f"{PROVENANCE}/{ERRORS}"
    level = manifest.predicate.build_definition.internal_parameters.verified
    if level == "none":
        return ()
    if name not in manifest.results:
        raise ReleaseError(f"{name}: is not there, though the build was verified.")
    try:
        errors = weight_errors.parse(here.data(name).decode("utf-8"))
        found = {error.module: (error.format, error.relative) for error in errors}
    except (ValueError, TypeError) as error:
        raise ReleaseError(f"{name}: is no list of errors: {error}.") from error
    if differing := sorted(found.keys() ^ plan.linears.keys()) or len(found) != len(errors):
        raise ReleaseError(f"{name}: does not list each packed linear once: {differing}.")
    limits: Mapping[str, float] = {str(k): most for k, most in recipe.gates.max_error.items()}
    for module, linear in plan.linears.items():
        kind, relative = found[module]
        most = limits[linear.format.name]
        if kind != linear.format.name or not 0 <= relative <= most:
            raise ReleaseError(
                f"{name}: {module} is off by {relative:.2g} in {kind}; by the recipe it is "
                f"{linear.format.name}, off by {most} at most."
            )
    for one in errors:
        if one.squared_norm == 0:
            block_scales.require_zeros(plan.linears[one.module], here.extremes)
    ordered = tuple(sorted(errors, key=lambda one: one.module))
    if weight_errors.lines(ordered).encode() != here.data(name):
        raise ReleaseError(f"{name}: is not in the order and spelling that a build writes.")
    return ordered
