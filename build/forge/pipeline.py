"""The steps of a build, in order, and the one way to run them.

Each step is a module with two functions, registered under its name as an entry point of the group
`hallmark.steps` (pyproject.toml), since one of them lives in a package that this one does not know:

- `parameters(work) -> dict`: everything that decides the outcome besides the needed results and the
  code, as JSON;
- `run(work, out) -> dict | None`: writes its files under `out`; may return the sha256 of those that
  it hashed while writing.

A step's key is the hash of its parameters, the digests of what it reads, the modules that it can
reach by imports, the versions of the distributions that those import, and the system. Where the
store has a result under the key, the step is skipped. So an unchanged build does no work, a killed
one continues with the step that it was in, and a change to a report leaves a calibration valid.
"""

import errno
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cache, partial
from importlib.metadata import entry_points
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Protocol

from forge.core import canonical, closure, console, disk, failures, machine
from forge.core.errors import (
    FileSystemError,
    HallmarkError,
    NoEnvironmentError,
    StoreError,
    TensorFileError,
)
from forge.core.files import SourceKind
from forge.core.integrity import require_recorded
from forge.core.libraries import telling
from forge.core.model import Level
from forge.core.results import NO_FILE, Leaves, Record, Result
from forge.core.store import Store

if TYPE_CHECKING:
    from forge.recipes.recipe import Recipe
    from forge.tensors.checkpoint import Checkpoint

GROUP = "hallmark.steps"
Needed = Mapping[str, Result]
# What moves a bar on.
Advance = Callable[[int], None]
Environment = Literal["host", "build", "verify"]


@dataclass(frozen=True, kw_only=True)
class Step:
    """A step: the results that it reads, and the environment that it runs in.

    Of a result that `reads` names, the step reads only what lies below these paths, so variants
    that differ elsewhere share its own result.

    A step compares what it reads with its digest as the bytes pass. `trusts` names the exceptions,
    by result and path: they are hashed before the step works. `vouches` names the results whose
    files the step attests unread; they are hashed unless that was done since the build began:
    when they were written, or by a step that `compares` them. Of those that a step `links`, its own
    result has the bytes. What a step `lends`, by result and path, is read by a library, which
    compares it with no digest; it is hashed after the step has worked.

    If it fails, files whose path begins with one of `logs` are kept in the store.

    Every result of the step `leaves` these files, or none where the parameter `given` is null.
    """

    name: str
    needs: tuple[str, ...]
    reads: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    trusts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    links: tuple[str, ...] = ()
    compares: tuple[str, ...] = ()
    vouches: tuple[str, ...] = ()
    lends: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    logs: tuple[str, ...] = ()
    leaves: tuple[str, ...] = ()
    given: str | None = None
    environment: Environment = "build"

    def inputs(self, needed: Needed) -> dict[str, dict[str, str]]:
        """The digests of all that the step reads, by result and path."""
        return self.reads_of({name: needed[name].digests for name in self.needs})

    def reads_of(self, digests: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
        """Of the digests of results, by step and path, those of what the step reads."""
        return {
            name: {
                path: digest
                for path, digest in digests[name].items()
                if path.startswith(self.reads.get(name, ("",)))
            }
            for name in self.needs
        }

    def left(self, record: Record) -> set[str]:
        """The files that a result with this record must have; all shards of what it links, too."""
        if self.given is not None and record.parameters.get(self.given) is None:
            return set()
        linked = {path for name in self.links for path in record.needs.get(name, {})}
        return {*self.leaves, *(path for path in linked if path.endswith(".safetensors"))}


# The results that have the bytes of the checkpoint.
CHECKPOINT = ("quantize", "graft", "dress")

STEPS = (
    Step(
        name="fetch",
        needs=(),
        leaves=("inputs.json", "tensors/base.jsonl", "base/config.json"),
        environment="host",
    ),
    Step(
        name="calibrate",
        needs=("fetch",),
        reads={"fetch": ("base/", "calibration/")},
        trusts={"fetch": ("calibration/",)},
        lends={"fetch": ("base/",)},
        logs=("calibrate.log",),
        leaves=("calibration.safetensors",),
    ),
    Step(
        name="quantize",
        needs=("fetch", "calibrate"),
        reads={"fetch": ("base/",), "calibrate": ("calibration.safetensors",)},
        trusts={"calibrate": ("calibration.safetensors",)},
        leaves=("tensors.jsonl",),
    ),
    Step(
        name="graft",
        needs=("fetch",),
        reads={"fetch": ("base/", "donor/", "tensors/")},
        leaves=("model-mtp.safetensors", "tensors.jsonl"),
        given="source",
    ),
    Step(
        name="dress",
        needs=("fetch", "quantize", "graft"),
        reads={"fetch": ("base/", "donor/", "template/", "tensors/")},
        links=("quantize", "graft"),
        leaves=("config.json", "model.safetensors.index.json"),
    ),
    Step(
        name="verify",
        needs=("fetch", "quantize", "graft", "dress"),
        reads={"quantize": ("tensors.jsonl",), "graft": ("tensors.jsonl",)},
        trusts={
            "fetch": ("perplexity/",),
            "quantize": ("tensors.jsonl",),
            "graft": ("tensors.jsonl",),
        },
        compares=CHECKPOINT,
        logs=("",),
        leaves=("verification.json",),
        environment="verify",
    ),
    Step(
        name="attest",
        needs=("fetch", "calibrate", "quantize", "graft", "dress", "verify"),
        trusts={
            "fetch": ("inputs.json",),
            "calibrate": ("calibration.safetensors",),
            "quantize": ("tensors.jsonl",),
            "graft": ("tensors.jsonl",),
            "verify": ("",),
        },
        vouches=CHECKPOINT,
        leaves=("provenance.json", "tensors.jsonl", "SHA256SUMS"),
        environment="verify",
    ),
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """What is asked for: a recipe, where its inputs come from, and how far it is verified.

    In a rehearsal, `base` replaces the recipe's base by a local checkpoint (None: the stand-in).
    `origins` says of each input where it comes from; it is decided once a build.
    """

    recipe: "Recipe"
    store: Store
    rehearsal: bool
    base: Path | None = None
    mirror: Path | None = None
    level: Level = "all"
    origins: Mapping[str, SourceKind] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuses a path that no document can state.

        Raises:
            FileSystemError: its name is not UTF-8.
        """
        for path in (self.store.root, self.base, self.mirror):
            try:
                str(path).encode()
            except UnicodeEncodeError as error:
                raise FileSystemError(
                    f"{path}: the name is not UTF-8, in which a build states it. Use another."
                ) from error

    @property
    def environments(self) -> tuple[Environment, ...]:
        """The environments that its steps run in, in order."""
        every = {environment_of(step, self): None for step in STEPS}
        return tuple(every)


@dataclass(frozen=True, kw_only=True, eq=False)
class Work:
    """What a step is given: the job, the results that it needs, and the checkpoint under work.

    What shows people how far it is, and what refuses it for want of room, decides no byte. So a
    step has that from here, and its key does not have the modules that do it.
    """

    job: Job
    needed: Needed
    read: "Callable[[], Checkpoint]"

    @property
    def recipe(self) -> "Recipe":
        """The job's recipe."""
        return self.job.recipe

    @property
    def inputs(self) -> Path:
        """The folder that fetch left."""
        return self.needed["fetch"].files

    @property
    def checkpoint(self) -> "Checkpoint":
        """The recipe applied to the tensors of the base; there is none before fetch."""
        return self.read()

    def count_bar(self, what: str, total: int) -> AbstractContextManager[Advance]:
        """As :func:`forge.core.console.count_bar`."""
        return console.count_bar(what, total)

    def bytes_bar(self, what: str, total: int) -> AbstractContextManager[Advance]:
        """As :func:`forge.core.console.bytes_bar`."""
        return console.bytes_bar(what, total)

    def require_room(self, needed: int, what: str) -> None:
        """Refuses to begin what does not fit into the store.

        Raises:
            SpaceError: fewer bytes are free there.
        """
        disk.require(self.job.store.root, needed, what)


class Module(Protocol):
    """The face of a step's module."""

    __name__: str

    def parameters(self, work: Work) -> dict[str, Any]:
        """All that decides the outcome, but for the needed results and the code."""

    def run(self, work: Work, out: Path) -> Mapping[str, str] | None:
        """Writes the step's files under `out`."""


def run(
    job: Job,
    *,
    within: Sequence[Environment] = ("host", "build", "verify"),
    until: str = "attest",
    given: Needed = MappingProxyType({}),
) -> dict[str, Result]:
    """Runs the steps in this process, skipping those whose result is in the store.

    Args:
        job: what is asked for, the origins of its inputs included.
        within: the environments whose steps this process may run; ends before the first step of
            another.
        until: the last step.
        given: results that are not made again.
    """
    results = dict(given)
    work = work_on(job, results)
    steps = list(_due(job, within, until, given))
    # Before any of them works: a source file that is edited meanwhile is not the one that runs.
    modules = {step.name: module_of(step.name) for step in steps}
    deciding = {name: code_of(module.__name__) for name, module in modules.items()}
    for step in steps:
        needed = {name: results[name] for name in step.needs}
        ready, module = replace(work, needed=needed), modules[step.name]
        try:
            parameters = module.parameters(ready)
        except (HallmarkError, OSError) as error:
            _blame(error, step, results)
            raise
        facts = {**deciding[step.name], "parameters": parameters, "needs": step.inputs(needed)}
        made = kept(
            job.store, step.name, facts, partial(_checked_run, step, module, ready, results)
        )
        _note_checked(step, made, results, job.level)
    return results


def _checked_run(
    step: Step, module: Module, work: Work, results: dict[str, Result], out: Path
) -> Mapping[str, str] | None:
    """Runs a step; what it does not compare itself is hashed before or after.

    Raises:
        StoreError: a stored file is damaged or cannot be read; the results that have it are removed
            or set aside.
        HallmarkError: what else the step raises, and where its logs are kept.
    """
    recheck(results, trusted=step.trusts, whole=step.vouches)
    failed = work.job.store.root / "failed" / work.recipe.name
    try:
        with telling():
            digests = module.run(work, out)
        recheck(results, trusted=step.lends)
    except StoreError:
        raise  # what is damaged was found, and is gone
    except OSError as error:
        _blame(error, step, results)
        raise
    except HallmarkError as error:
        # Damaged bytes may be why. They have to go, or the step would meet them again.
        if not _blame(error, step, results):
            recheck(results, whole=step.compares or step.needs)
        if step.logs and (kept := failures.keep(failed, out, step.logs)):
            raise _with_line(error, kept) from error
        raise
    if step.logs:
        failures.clear(failed)
    return digests


def _blame(error: HallmarkError | OSError, step: Step, results: dict[str, Result]) -> bool:
    """Hashes all that a step was given if a file may be the cause of its error; whether it did.

    Raises:
        StoreError: a file cannot be read or is damaged. It is out of the way of the next run.
    """
    if isinstance(error, StoreError) or not _is_of_a_file(error):
        return False
    recheck(results, trusted=dict.fromkeys(step.needs, ("",)))
    return True


def _is_of_a_file(error: BaseException | None) -> bool:
    """Whether it says that a file is none, breaks its format, or was not to be had off the disk."""
    if isinstance(error, TensorFileError):
        return True
    if isinstance(error, OSError) and error.errno in NO_FILE:
        return True
    while error is not None:
        if isinstance(error, OSError) and error.errno == errno.EIO:
            return True
        error = error.__cause__ or error.__context__
    return False


def _with_line(error: HallmarkError, line: str) -> HallmarkError:
    """The same error with a line at its end."""
    said = str(error).rstrip()
    if "\n" in said:
        said += "\n"
    else:
        said += " " if said.endswith(".") else ". "
    return type(error)(said + line, remedy=error.remedy, **error.facts)


def recheck(
    results: dict[str, Result],
    *,
    trusted: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
    whole: Sequence[str] = (),
) -> None:
    """Hashes stored files, whatever their size and time say.

    Args:
        results: by step; those that are hashed as a whole are `checked` afterwards.
        trusted: paths by step that are hashed in any case.
        whole: steps whose results are hashed if they are not `checked`.

    Raises:
        StoreError: a file is not what was recorded, or cannot be read; the results that have it are
            removed or set aside.
    """
    found = [name for name in whole if not results[name].checked]
    files = {
        path: digest
        for name, paths in [*trusted.items(), *((name, ("",)) for name in found)]
        for path, digest in results[name].below(paths).items()
    }
    require_recorded(files, results.values())
    for name in found:
        results[name] = replace(results[name], checked=True)


def _note_checked(step: Step, made: Result, results: dict[str, Result], level: Level) -> None:
    """Keeps a step's result, and which results are checked now."""
    worked = made.checked
    if not all(results[name].checked for name in step.links):
        made = replace(made, checked=False)
    results[step.name] = made
    if worked and level != "none":
        for name in step.compares:
            results[name] = replace(results[name], checked=True)


def kept(
    store: Store,
    step: str,
    facts: Mapping[str, Any],
    make: Callable[[Path], Mapping[str, str] | None],
    leaves: Leaves | None = None,
) -> Result:
    """The result of a step under the hash of all that decides it; made if the store has none.

    Args:
        store: where results are kept.
        step: its name.
        facts: parameters, digests of what it needs, and what :func:`code_of` gives.
        make: leaves the files in a folder; may return the digests of those that it hashed.
        leaves: the files that a result must have, of what is no step of a build.
    """
    key = key_of(step, facts)
    with store.lock(step, key):
        found = store.get(step, key, leaves or leaves_of)
        if found is not None:
            console.skipped(step)
            return found
        with console.running(step):
            return store.make(step, key, make, facts)


def leaves_of(record: Record) -> set[str]:
    """The files that a result with this record must have, as far as it is one of a step."""
    return {path for step in STEPS if step.name == record.step for path in step.left(record)}


def key_of(step: str, facts: Mapping[str, Any]) -> str:
    """The key of a step's result: the hash of its name and of all that decides it."""
    return canonical.sha256_text(canonical.dumps({"step": step, **facts}))


def code_of(module: str) -> dict[str, Any]:
    """What decides a result besides its parameters and needs: what a module reaches, the system."""
    reached = closure.of(module)
    return {
        "code": reached.code(),
        "distributions": reached.distributions(),
        "system": machine.system(),
    }


def _due(
    job: Job, within: Sequence[Environment], until: str, given: Container[str]
) -> Iterator[Step]:
    """The steps to run here, up to the first that this process may not run."""
    for step in STEPS:
        if step.name not in given:
            if environment_of(step, job) not in within:
                return
            yield step
        if step.name == until:
            return


def environment_of(step: Step, job: Job) -> Environment:
    """Where a step runs: without the engine's checks, the last steps run where the build does."""
    return "build" if step.environment == "verify" and job.level != "all" else step.environment


def module_of(step: str) -> Module:
    """The module that is registered for a step.

    Raises:
        NoEnvironmentError: none is, or several are: this checkout is not installed here as it is
            now.
    """
    found = entry_points(group=GROUP, name=step)
    if len(found) != 1:
        raise NoEnvironmentError(
            f"{len(found)} modules are registered for the step {step!r} in {GROUP!r}: this "
            "environment was not made from pyproject.toml as it is now."
        )
    module: Module = next(iter(found)).load()
    return module


def work_on(job: Job, results: Needed) -> Work:
    """What a step is given that may read all of these results."""

    @cache
    def read() -> "Checkpoint":
        from forge.tensors import checkpoint  # fetch runs where there is no numba

        # Every digest that a step compares with is in there.
        recheck(dict(results), trusted={"fetch": ("tensors/",)})
        return checkpoint.read(job.recipe, results["fetch"].files)

    return Work(job=job, needed=results, read=read)
