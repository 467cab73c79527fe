"""Step attest: the manifest, with which a stranger checks and rebuilds the release.

`provenance.json` is an in-toto Statement v1 (https://in-toto.io/Statement/v1) with the SLSA
provenance v1 predicate (https://slsa.dev/spec/v1.0/provenance). `SHA256SUMS` covers every file
outside `provenance/`, `tensors.jsonl` every stored tensor; both come from the stored bytes.
"""

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forge.calibration import record
from forge.core import canonical, checkout, machine, store
from forge.core.store import Result
from forge.release import statement
from forge.release.statement import resource
from forge.tensors import tensorfile
from forge.tensors.tensorfile import Tensor

if TYPE_CHECKING:
    from forge.pipeline import Job, Needed, Work

SUMS = "SHA256SUMS"
TENSORS = "tensors.jsonl"
STATEMENT = "provenance.json"
VERIFICATION = "verification.json"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:hallmark:build:v1"
BUILDERS = {"host": "urn:hallmark:builder:host", "image": "urn:hallmark:builder:image"}
# A rehearsal is no release wherever it ran, so its builder is another one in either place.
REHEARSALS = {
    "host": "urn:hallmark:builder:rehearsal",
    "image": "urn:hallmark:builder:rehearsal:image",
}


def parameters(work: "Work") -> dict[str, Any]:
    """Who builds what from which source."""
    job = work.job
    commit, dirty = checkout.commit()
    return {
        "variant": job.recipe.name,
        "recipe": job.recipe.model_dump(mode="json"),
        "builder": _builder(job),
        "container": machine.container(),
        "commit": commit,
        "dirty": dirty,
        "code": checkout.code_digest(),
        "locks": _locks(job),
    }


def run(work: "Work", out: Path) -> None:
    """Writes everything that goes into `provenance/`."""
    job, needed = work.job, work.needed
    dress = needed["dress"]
    (out / SUMS).write_text(sum_lines(dress.digests), encoding="utf-8")
    tensors = tensorfile.read_checkpoint(dress.files)
    (out / TENSORS).write_text(tensor_lines(tensors), encoding="utf-8")
    store.link(needed["calibrate"].files / record.FILE, out / record.FILE)
    store.link(needed["verify"].files / VERIFICATION, out / VERIFICATION)
    canonical.write(out / STATEMENT, _statement(job, needed, out))


def sum_lines(digests: Mapping[str, str]) -> str:
    """A line a file, sorted by path, as sha256sum writes it."""
    return "".join(f"{digest}  {path}\n" for path, digest in sorted(digests.items()))


def tensor_lines(tensors: Mapping[str, Tensor]) -> str:
    """A line of canonical JSON a tensor, sorted by name, with the sha256 of its stored bytes."""
    ordered = sorted(tensors.values(), key=lambda tensor: tensor.name)
    with ThreadPoolExecutor() as pool:
        digests = pool.map(_tensor_digest, ordered)
        return "".join(
            canonical.dumps(
                {
                    "name": tensor.name,
                    "dtype": tensor.dtype,
                    "shape": tensor.shape,
                    "nbytes": tensor.nbytes,
                    "sha256": digest,
                    "file": tensor.file.name,
                }
            )
            + "\n"
            for tensor, digest in zip(ordered, digests, strict=True)
        )


def _tensor_digest(tensor: Tensor) -> str:
    digest = hashlib.sha256()
    for chunk in tensor.chunks():
        digest.update(chunk)
    return digest.hexdigest()


def _builder(job: "Job") -> str:
    where = "host" if machine.container() is None else "image"
    return (REHEARSALS if job.rehearsal else BUILDERS)[where]


def _statement(job: "Job", needed: "Needed", out: Path) -> dict[str, Any]:
    subjects = dict(needed["dress"].digests) | {
        f"provenance/{name}": canonical.sha256_file(out / name) for name in (SUMS, TENSORS)
    }
    predicate = {
        "buildDefinition": _definition(job, needed),
        "runDetails": _details(job, needed, out),
    }
    return statement.of(subjects, PREDICATE_TYPE, predicate)


def _definition(job: "Job", needed: "Needed") -> dict[str, Any]:
    inputs = needed["fetch"].files / "inputs.json"
    fetched = canonical.read(inputs)
    recipe = f"build/variants/{job.recipe.name}.toml"
    return {
        "buildType": BUILD_TYPE,
        "externalParameters": {
            "source": fetched["sources"]["base"]["uri"],
            "target": job.recipe.name,
            "recipe": recipe,
        },
        "internalParameters": {
            "code_sha256": checkout.code_digest(),
            "source": checkout.source_digests(),
            "fetched_from": {role: entry["kind"] for role, entry in fetched["sources"].items()},
            "machine": machine.machine(),
            "verified": job.level,
        },
        "resolvedDependencies": [
            *_inputs(fetched["files"]),
            *_own_files(recipe, job),
            _own_commit(),
            *_own_image(),
        ],
    }


def _inputs(files: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            **resource(f"{entry['role']}/{entry['path']}", entry["sha256"]),
            "uri": entry["uri"],
            "annotations": {"bytes": entry["bytes"]},
        }
        for entry in files
    ]


def _own_files(recipe: str, job: "Job") -> list[dict[str, Any]]:
    """The recipe, and every lock file that an environment of this build was made from."""
    own = {recipe: canonical.sha256_file(checkout.ROOT / recipe), **_locks(job)}
    return [resource(path, digest) for path, digest in sorted(own.items())]


def _locks(job: "Job") -> dict[str, str]:
    """The lock files of the environments that the job's steps run in, by path."""
    found = [checkout.lock_digests(environment) for environment in job.environments]
    return {path: digest for lock in found for path, digest in lock.items()}


def _own_commit() -> dict[str, Any]:
    commit, dirty = checkout.commit()
    return {
        "name": "hallmark",
        "uri": "pkg:generic/hallmark",
        "digest": {"gitCommit": commit},
        "annotations": {"uncommitted_changes": dirty},
    }


def _own_image() -> list[dict[str, Any]]:
    """The image that it was built in and the base of that, or nothing on a host."""
    inside = machine.container()
    if inside is None:
        return []
    image, labels = inside["image"], inside["image"]["labels"]
    base = labels["org.opencontainers.image.base.name"]
    annotations = {"layers_sha256": image["layers"], "labels": labels}
    return [
        {**resource("image", _hex(image["id"])), "annotations": annotations},
        resource("image/base", _hex(labels["org.opencontainers.image.base.digest"]))
        | {"uri": f"oci:{base}"},
    ]


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")


def _details(job: "Job", needed: "Needed", out: Path) -> dict[str, Any]:
    records = [result.record for result in needed.values()]
    files = [record.FILE, VERIFICATION]
    return {
        "builder": {"id": _builder(job)},
        "metadata": {
            "startedOn": min(entry["started"] for entry in records),
            "finishedOn": max(entry["finished"] for entry in records),
        },
        "byproducts": [
            *(resource(f"provenance/{f}", canonical.sha256_file(out / f)) for f in files),
            *(_step_record(result) for result in needed.values()),
        ],
    }


def _step_record(result: Result) -> dict[str, Any]:
    """What a step did, in full; the digest is that of the annotations as canonical JSON."""
    annotations = {
        **{name: result.record[name] for name in ("key", "started", "finished", "parameters")},
        **{name: result.record[name] for name in ("needs", "code", "distributions", "system")},
        "outputs": dict(result.digests),
    }
    digest = canonical.sha256_text(canonical.dumps(annotations))
    return {**resource(f"step/{result.step}", digest), "annotations": annotations}
