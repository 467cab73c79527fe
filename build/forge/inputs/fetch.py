"""The fetch step: every input at its pin, every file checked by its digest, no large one copied.

The result has `base/` and `donor/` (links to where the bytes lie), `tensors/base.jsonl` and
`tensors/donor.jsonl` with the sha256 of each of their tensors in the order of the data,
`template/chat_template.jinja` if the recipe replaces it, `calibration/<set>/samples.jsonl` or
`rows.jsonl`, `perplexity/text.txt`, and `inputs.json`, which tells where every file read is from
and what its sha256 is, in the same words on every machine. What the base lacks and the donor lends
is linked into `base/` as well.

A real build takes each input from the mirror if that has it, else from the hub. A rehearsal takes
the base that it was given, or the stand-in, and all else from the stand-in, so that its artifact
depends on nothing outside the repository; only the perplexity text is the published one where a
mirror or the hub has it. Bytes that are not the pinned ones are an error wherever they are found,
never a reason to look elsewhere.
"""

import functools
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forge.core import console, disk
from forge.core.errors import FetchError
from forge.core.files import LFS_POINTER, Feed, File, Origin, SourceKind, Watch, unwatched
from forge.inputs import decided, hub, mirror, sample_files, samples, standin
from forge.manifest import document
from forge.manifest.inputs import InputFile, Inputs
from forge.manifest.names import INPUTS
from forge.manifest.tensor_list import TensorLine
from forge.recipes.recipe import CalibrationSet
from forge.recipes.sources import Source, Template, Unresolved
from forge.tensors import admission, tensor_list
from forge.tensors.configs import CONFIG
from forge.tensors.tensor_list import Arriving

if TYPE_CHECKING:
    from forge.pipeline import Job, Work

STANDINS = standin.ROOT
LINKED = ("base", "donor")
MOST_JSON = 64 << 20  # bytes of a file of JSON that is looked into

Taken = Mapping[str, Mapping[str, File]]


def choose(job: "Job", only: Collection[str] | None = None) -> "Job":
    """The job with the origin of every input; a build asks once, and its processes are told.

    Only the perplexity text of a rehearsal depends on what answers at the moment, and may take
    seconds.

    Args:
        job: what is asked for.
        only: the roles that are asked for; None for all.

    Raises:
        UnpinnedError, NotReadyError: a real build of a recipe that is not ready for one.
        FetchError: the mirror is no folder.
    """
    recipe = job.recipe
    roles = [role for role in recipe.sources if only is None or role in only]
    kinds: dict[str, SourceKind] = dict.fromkeys(roles, "standin")
    if not job.rehearsal:
        recipe.require_ready()
        for role in roles:
            kinds[role] = "mirror" if _mirrored(job, role) else "hub"
    else:
        if job.base is not None:
            kinds["base"] = "local"
        if "perplexity" in roles:
            kinds["perplexity"] = _published_text(job)
    return replace(job, origins=kinds)


def parameters(work: "Work") -> dict[str, Any]:
    """Where each input comes from and what is taken of it; reads no large file, asks no hub.

    Raises:
        FetchError: a source cannot give what the recipe takes, as far as its listing tells.
    """
    origins = _origins(work)
    return {
        "origins": {role: [origin.kind, origin.key] for role, origin in origins.items()},
        **decided.of(work.recipe),
    }


def run(work: "Work", out: Path) -> dict[str, str]:
    """Fetches, checks and lays out every input; returns the digests that are known already.

    Raises:
        FetchError: an input cannot be had, or is not what its pin says, or the base's config is
            none that a model can be made by.
        BaseError: a file of JSON of the base is none that all readers agree on.
        SpaceError: there is no room for what is still to be fetched.
    """
    job = work.job
    origins = _origins(work)
    _require_room(job, origins)
    # The checkpoints last: a wrong pin of a small input shows before 55 GB are fetched.
    taken = {role: _take(role, origin) for role, origin in origins.items() if role not in LINKED}
    if job.recipe.template is not None:
        pinned = job.recipe.template.sha256
        _write(out / "template/chat_template.jinja", _template(job, pinned, taken["template"]))
    for name, wanted in job.recipe.calibration.sets.items():
        role = f"calibration.sets.{name}"
        _samples(job, wanted, origins[role], taken[role], out / "calibration" / name)
    _write(out / "perplexity/text.txt", _text(job, origins, taken))
    tensors: dict[str, str] = {}
    texts: dict[Path, bytearray] = {}
    for role in (role for role in LINKED if role in origins):
        arrival = _Arrival()
        taken[role] = _take(role, origins[role], arrival.watch)
        listed = tensor_list.of_input(role)
        tensors[listed] = tensor_list.write(out / listed, arrival.lines(), tensor_list.by_file)
        texts |= arrival.texts
    document.write(out / INPUTS, _inputs(origins, taken))
    linked = _linked(taken, job.recipe.lent)
    _require_config(job, linked["base"], texts)
    for file in linked["base"].values():
        if file.path in texts:
            admission.parse_object(bytes(texts[file.path]), file.path)
    return tensors | _link(linked, out)


@functools.lru_cache(maxsize=1)
def _origins(work: "Work") -> dict[str, Origin]:
    """Every input as the job's origins say; looked at once, for the key and for the work."""
    job = work.job
    return {role: origin_of(job, role) for role in job.recipe.sources}


def origin_of(job: "Job", role: str) -> Origin:
    """Where an input comes from, by its role, as the job's origins say.

    Raises:
        FetchError: a source cannot give what the recipe takes, as far as its listing tells.
    """
    kind, source = job.origins[role], job.recipe.sources[role]
    if kind == "local" and job.base is not None:
        return mirror.local(job.base, decided.base_globs(job.recipe))
    if kind == "mirror":
        found = _mirrored(job, role)
        if found is None:
            raise FetchError(
                f"{job.mirror}: had {source.repo} when this build began, and no longer has it."
            )
        return found
    if kind == "hub":
        also = decided.beside(job.recipe, role)
        return hub.repository(source, decided.globs_of(source), job.store.root / "hub", also)
    return _standin(job, role, source)


def _standin(job: "Job", role: str, source: Source) -> Origin:
    """What stands for a source in a rehearsal."""
    if role == "base":
        return standin.checkpoint(job.recipe, decided.base_globs(job.recipe), STANDINS)
    if role == "donor":
        return standin.checkpoint(job.recipe, decided.donated_globs(job.recipe), STANDINS)
    if isinstance(source, Template):
        return standin.template(STANDINS)
    if isinstance(source, CalibrationSet):
        return standin.samples(source, STANDINS)
    return standin.corpus(standin.EVALUATION, STANDINS)


def _mirrored(job: "Job", role: str) -> Origin | None:
    if job.mirror is None:
        return None
    source, also = job.recipe.sources[role], decided.beside(job.recipe, role)
    found = mirror.repository(job.mirror, source, decided.globs_of(source), also)
    if found is None and role == "perplexity":
        found = mirror.joined_text(job.mirror, job.recipe.perplexity)
    return found


def _published_text(job: "Job") -> SourceKind:
    """Where the recipe's perplexity text comes from, if a rehearsal can have it without waiting."""
    source = job.recipe.perplexity
    if isinstance(source.revision, Unresolved):
        reason: str | None = "its commit is not resolved"
    elif _mirrored(job, "perplexity"):
        return "mirror"
    else:
        reason = hub.unreachable(source)
    if reason is None:
        return "hub"
    own = "perplexity is taken over Hallmark's own evaluation text"
    console.say(f"{own}, not {mirror.title(source)}: {reason}")
    return "standin"


def _take(role: str, origin: Origin, watch: Watch = unwatched) -> dict[str, File]:
    console.say(f"{role:>12}  {origin.name} ({origin.kind})")
    return origin.take(watch)


class _Arrival:
    """Looks at the files of a checkpoint while they are read, since none is read twice.

    `texts` has the bytes of each file of JSON by its path.
    """

    def __init__(self) -> None:
        self.texts: dict[Path, bytearray] = {}
        self._tensors: list[Arriving] = []

    def watch(self, path: Path) -> Feed:
        """What is fed the bytes of a file.

        Raises:
            FetchError: by what it returns, if the bytes are a pointer of git-lfs.
        """
        further: Feed | None = None
        if path.suffix == ".safetensors":
            self._tensors.append(Arriving(path, path.stat().st_size))
            further = self._tensors[-1].update
        elif path.suffix == ".json" and path.stat().st_size <= MOST_JSON:
            further = self.texts.setdefault(path, bytearray()).extend
        begun = False

        def feed(chunk: bytes) -> None:
            nonlocal begun
            if not begun and chunk.startswith(LFS_POINTER):
                raise FetchError(
                    f"{path}: is a pointer of git-lfs, not the file. Run `git lfs pull` there."
                )
            begun = True
            if further is not None:
                further(chunk)

        return feed

    def lines(self) -> list[TensorLine]:
        """The tensors that have passed, with their digests."""
        return [line for one in self._tensors for line in one.lines()]


def _require_room(job: "Job", origins: Mapping[str, Origin]) -> None:
    """Refuses before the first download what all of them together have no room for."""
    missing: dict[str, int] = {}
    for origin in origins.values():
        missing |= origin.missing()
    if missing:
        disk.require(job.store.root, sum(missing.values()), "what is still to be fetched")


def _require_config(job: "Job", base: Mapping[str, File], texts: Mapping[Path, bytearray]) -> None:
    """Refuses a base whose config, one of those that have arrived, names no model or another one.

    transformers would make a model by its defaults, in gigabytes, before it found out.
    """
    remedy = None if job.base is None else "wrong-base"
    if CONFIG not in base:
        raise FetchError(f"the base of {job.recipe.name} has no {CONFIG}.", remedy=remedy)
    path = base[CONFIG].path
    try:
        config = json.loads(texts[path].decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise FetchError(f"{path}: is no JSON in UTF-8: {error}.", remedy=remedy) from error
    found = config if isinstance(config, dict) else {}
    if found.get("architectures") != [job.recipe.architecture]:
        raise FetchError(
            f"{path}: architectures is {found.get('architectures')}, the recipe "
            f"{job.recipe.name} is for {job.recipe.architecture}.",
            remedy=remedy,
        )
    if not isinstance(found.get("model_type"), str):
        raise FetchError(
            f"{path}: model_type is {found.get('model_type')}, expected a name.", remedy=remedy
        )


def _template(job: "Job", pinned: str, taken: Mapping[str, File]) -> bytes:
    (file,) = taken.values()
    if not job.rehearsal and file.sha256 != pinned:
        raise FetchError(
            f"{file.path}: has sha256 {file.sha256}, {job.recipe.name}.toml pins {pinned} as "
            "template.sha256. The file or the pin is wrong; neither is used."
        )
    return file.path.read_bytes()


def _samples(
    job: "Job", wanted: CalibrationSet, origin: Origin, files: Mapping[str, File], folder: Path
) -> None:
    """Writes a calibration set's samples, none twice: as many as the recipe says.

    Where samples are joined from rows, it writes the rows, at least one for each sample; whether
    they fill the samples is calibration's to tell. Each article of a stand-in is a sample, and a
    rehearsal takes those that there are.
    """
    paths = [file.path for file in files.values()]
    if wanted.content == "image-text":
        (lines,) = (path for path in paths if path.suffix == ".jsonl")
        media = [path for path in paths if path != lines]
        found = samples.read_pictures(lines, media, wanted.samples, folder)
    elif origin.kind == "standin":
        found = [standin.conversation(path) for path in paths]
    else:
        (table,) = paths
        found = samples.read_text(table, wanted)
    if len(found) < wanted.samples and origin.kind != "standin":
        raise FetchError(
            f"{origin.name}: has {len(found)} rows, {job.recipe.name}.toml takes "
            f"{wanted.samples} samples; no row is used twice. Lower the set's samples."
        )
    joined = wanted.rows == "joined" and origin.kind != "standin"
    sample_files.write(found, folder / (sample_files.ROWS if joined else sample_files.FILE))


def _text(job: "Job", origins: Mapping[str, Origin], taken: Taken) -> bytes:
    """The perplexity text; the published one has the digest that the recipe states."""
    origin, wanted = origins["perplexity"], job.recipe.perplexity
    paths = [file.path for file in taken["perplexity"].values()]
    if origin.kind == "standin":
        return b"".join(path.read_bytes() for path in paths)
    (path,) = paths
    if origin.joined:
        text = path.read_bytes()
    else:
        text = _joined(samples.column(path, wanted.column), path)
    if (found := sha256(text).hexdigest()) != wanted.text_sha256:
        raise FetchError(
            f"{path}: the text of {origin.name} has sha256 {found}, {job.recipe.name}.toml pins "
            f"{wanted.text_sha256} as perplexity.text_sha256. Replace the file or correct the pin."
        )
    return text


def _joined(rows: Sequence[object], path: Path) -> bytes:
    if not all(isinstance(row, str) for row in rows):
        raise FetchError(f"{path}: the perplexity column holds more than text; correct the recipe.")
    return "".join(str(row) for row in rows).encode()


def _inputs(origins: Mapping[str, Origin], taken: Taken) -> Inputs:
    """What was read and from where; names no folder of this machine and no time."""
    files = [
        InputFile(
            role=role,
            path=path,
            sha256=file.sha256,
            bytes=file.bytes,
            uri=origins[role].uri if origins[role].joined else f"{origins[role].uri}#{path}",
        )
        for role, group in taken.items()
        for path, file in group.items()
    ]
    named = {role: (one.kind, one.uri, one.name) for role, one in origins.items()}
    return decided.inputs(named, {role: one.revision for role, one in origins.items()}, files)


def _linked(taken: Taken, lent: Sequence[str]) -> Taken:
    """The checkpoints' files; those that the base borrows are among its own."""
    linked = {role: taken.get(role, {}) for role in LINKED}
    return {**linked, "base": {**linked["base"], **_borrowed(lent, linked)}}


def _link(linked: Taken, out: Path) -> dict[str, str]:
    """Links the checkpoints' files into the result, and returns their digests."""
    known = {}
    for role, files in linked.items():
        for name, file in files.items():
            link = out / role / name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file.path.resolve())
            known[f"{role}/{name}"] = file.sha256
    return known


def _borrowed(lent: Sequence[str], linked: Taken) -> dict[str, File]:
    """The files that the base lacks, as the donor has them."""
    lacking = [name for name in lent if name not in linked["base"]]
    if absent := [name for name in lacking if name not in linked["donor"]]:
        raise FetchError(
            f"neither the base nor the MTP donor has {absent[0]!r}, which the recipe lists under "
            "mtp.donor.lends. Correct the list, or take another donor."
        )
    return {name: linked["donor"][name] for name in lacking}


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
