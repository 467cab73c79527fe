"""Step attest: the manifest, with which a stranger checks and rebuilds the release.

`provenance.json` is an in-toto Statement v1 (https://in-toto.io/Statement/v1) with the SLSA
provenance v1 predicate (https://slsa.dev/spec/v1.0/provenance). `SHA256SUMS` covers every file
outside `provenance/`, `tensors.jsonl` every stored tensor; the digests in both were taken while the
bytes were written. Beside them lie the lists of the tensors of base and donor, the donor's config,
and the base's files that the result has in another form, as they were fetched. No tensor is read
here.
"""

from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forge.calibration import record
from forge.core import canonical, checkout, filesystem, image_labels, machine
from forge.core.errors import FetchError
from forge.core.results import Result
from forge.manifest import document, provenance, sums
from forge.manifest.inputs import Inputs
from forge.manifest.names import (
    ERRORS,
    INPUTS,
    PROVENANCE,
    STATEMENT,
    SUMS,
    TENSORS,
    VERIFICATION,
    listing_of,
    original_of,
)
from forge.manifest.provenance import (
    BASE_IMAGE,
    BUILD_TYPE,
    BUILDERS,
    IMAGE,
    REHEARSALS,
    BaseImage,
    Builder,
    Definition,
    Details,
    External,
    Image,
    ImageContents,
    Internal,
    Manifest,
    Metadata,
    StepRecord,
)
from forge.manifest.statement import Digest, subjects
from forge.manifest.tensor_list import TensorLine
from forge.tensors import tensor_list
from forge.tensors.configs import originals

if TYPE_CHECKING:
    from forge.pipeline import Job, Needed, Work


def parameters(work: "Work") -> dict[str, Any]:
    """Who builds what from which source."""
    job = work.job
    commit, dirty = checkout.commit()
    inside = machine.container()
    return {
        "variant": job.recipe.name,
        "recipe": job.recipe.model_dump(mode="json"),
        "builder": _builder(job),
        "container": None if inside is None else inside.as_json(),
        "commit": commit,
        "dirty": dirty,
        "code": checkout.code_digest(),
        "locks": _locks(job),
    }


def run(work: "Work", out: Path) -> None:
    """Writes everything that goes into `provenance/`."""
    job, needed = work.job, work.needed
    dress = needed["dress"]
    sums.write(out / SUMS, dress.digests)
    tensor_list.write(out / TENSORS, _tensors(needed))
    filesystem.link(needed["calibrate"].files / record.FILE, out / record.FILE)
    for name in _verified(needed):
        filesystem.link(needed["verify"].files / name, out / name)
    for name, path in _of_inputs(job, needed).items():
        (out / name).write_bytes(_fetched(needed, path))
    document.write(out / STATEMENT, _manifest(job, needed, out))


def _tensors(needed: "Needed") -> list[TensorLine]:
    """The tensors of the checkpoint, with the digests that were taken while they were written."""
    lists = (needed[step].files / tensor_list.FILE for step in ("quantize", "graft"))
    # A recipe that drops the head has no shard of it.
    return [line for path in lists if path.is_file() for line in tensor_list.read(path).values()]


def _verified(needed: "Needed") -> list[str]:
    """The files of the step verify: its report, and the errors of the linears if it looked."""
    return [name for name in (VERIFICATION, ERRORS) if name in needed["verify"].digests]


def _of_inputs(job: "Job", needed: "Needed") -> dict[str, str]:
    """What is kept of base and donor, by the name that it gets: where fetch left it.

    With it, all but the packed weights can be derived without them.
    """
    lists = {listing_of(role): tensor_list.of_input(role) for role in ("base", "donor")}
    found = {name: path for name, path in lists.items() if path in needed["fetch"].digests}
    fetched = needed["fetch"].digests
    return found | {original_of(path): path for path in originals(job.recipe, fetched)}


def _fetched(needed: "Needed", path: str) -> bytes:
    """A small file that fetch left.

    Raises:
        FetchError: it is not what was fetched.
    """
    data = (needed["fetch"].files / path).read_bytes()
    if (found := sha256(data).hexdigest()) != needed["fetch"].digests[path]:
        raise FetchError(
            f"{path}: has sha256 {found}, fetched was {needed['fetch'].digests[path]}; the file "
            "changed since. Run again."
        )
    return data


def _builder(job: "Job") -> str:
    where = "host" if machine.container() is None else "image"
    return (REHEARSALS if job.rehearsal else BUILDERS)[where]


def _manifest(job: "Job", needed: "Needed", out: Path) -> Manifest:
    files = dict(needed["dress"].digests) | {
        f"{PROVENANCE}/{name}": canonical.sha256_file(out / name) for name in (SUMS, TENSORS)
    }
    return provenance.manifest(files, _definition(job, needed), _details(job, needed, out))


def _definition(job: "Job", needed: "Needed") -> Definition:
    fetched = document.read(Inputs, needed["fetch"].files / INPUTS)
    recipe = provenance.recipe_of(job.recipe.name)
    commit, dirty = checkout.commit()
    return Definition(
        build_type=BUILD_TYPE,
        external_parameters=External(
            source=fetched.sources["base"].uri, target=job.recipe.name, recipe=recipe
        ),
        internal_parameters=Internal(
            source=checkout.source_digests(),
            fetched_from={role: source.kind for role, source in fetched.sources.items()},
            machine=machine.machine(),
            verified=job.level,
        ),
        resolved_dependencies=(
            *(provenance.input_of(file) for file in fetched.files),
            *provenance.source_files(_own_files(recipe, job)),
            provenance.source_tree(commit, uncommitted_changes=dirty),
            *_own_image(),
        ),
    )


def _own_files(recipe: str, job: "Job") -> dict[str, str]:
    """The recipe, and every lock file that an environment of this build was made from."""
    return {recipe: canonical.sha256_file(checkout.ROOT / recipe), **_locks(job)}


def _locks(job: "Job") -> dict[str, str]:
    """The lock files of the environments that the job's steps run in, by path."""
    found = [checkout.lock_digests(environment) for environment in job.environments]
    return {path: digest for lock in found for path, digest in lock.items()}


def _own_image() -> tuple[Image | BaseImage, ...]:
    """The image that it was built in and the base of that, or nothing on a host."""
    inside = machine.container()
    if inside is None:
        return ()
    image, labels = inside.image, inside.image.labels
    return (
        Image(
            name=IMAGE,
            digest=_digest(image.id),
            annotations=ImageContents(layers_sha256=image.layers, labels=labels),
        ),
        BaseImage(
            name=BASE_IMAGE,
            digest=_digest(labels[image_labels.BASE_DIGEST]),
            uri=f"oci:{labels[image_labels.BASE_NAME]}",
        ),
    )


def _digest(digest: str) -> Digest:
    return Digest(sha256=digest.removeprefix("sha256:"))


def _details(job: "Job", needed: "Needed", out: Path) -> Details:
    records = [result.record for result in needed.values()]
    files = {
        f"{PROVENANCE}/{name}": canonical.sha256_file(out / name)
        for name in (record.FILE, *_verified(needed), *_of_inputs(job, needed))
    }
    return Details(
        builder=Builder(id=_builder(job)),
        metadata=Metadata(
            started_on=min(one.started for one in records),
            finished_on=max(one.finished for one in records),
        ),
        byproducts=(
            *subjects(files),
            *(provenance.step(result.step, _step_record(result)) for result in needed.values()),
        ),
    )


def _step_record(result: Result) -> StepRecord:
    """What a step did, in full."""
    made = result.record
    return StepRecord(
        key=made.key,
        started=made.started,
        finished=made.finished,
        parameters=made.parameters,
        needs=made.needs,
        code=made.code,
        distributions=made.distributions,
        system=made.system,
        outputs=dict(result.digests),
    )
