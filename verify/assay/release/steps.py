"""The steps of verifying a release; :mod:`assay.release.verify` has them in order, and runs them.

Each takes the case, may rely on what the steps before have established about it, and returns what
it found in a few words, or raises why the release is refused.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from assay.release import (
    asked,
    chain,
    derived,
    expectations,
    figures,
    policy,
    publisher,
    rebuilders,
    recorded,
    rendered,
    source_tree,
    trust,
)
from assay.release.differing import difference
from assay.release.files import Reader, Stored
from assay.release.known import BESIDE
from assay.release.trust import AnyOf, Key, Trust
from forge.calibration import record
from forge.core import foreign
from forge.core.errors import HallmarkError, ReleaseError
from forge.core.portable import check_name, check_twins
from forge.manifest import (
    document,
    licences,
    limits,
    model_signature,
    release_list,
    summaries,
    sums,
)
from forge.manifest.names import (
    BUNDLES,
    CONTENTS,
    DOCUMENTS,
    ERRORS,
    MODEL_SIGNATURE,
    PROVENANCE,
    SIGNATURES,
    STATEMENT,
    SUMMARIES,
    SUMS,
    TENSORS,
    VERIFICATION,
)
from forge.manifest.policy import Expected, Policy
from forge.manifest.provenance import Manifest
from forge.manifest.release_list import Release
from forge.manifest.statement import Subjects, digests
from forge.manifest.verification import Report
from forge.recipes.recipe import Recipe
from forge.release import bundle, facts
from forge.tensors import tensor_list, tensorfile
from forge.tensors.tensorfile import Tensor

MANIFEST = f"{PROVENANCE}/{STATEMENT}"
LIST = f"{PROVENANCE}/{CONTENTS}"
RECORD = f"{PROVENANCE}/{record.FILE}"


@dataclass(frozen=True, kw_only=True)
class Demands:
    """What a release must meet; without `trust` its signatures are passed over.

    `stated` is what a command line expects beyond the policy.
    """

    trust: Trust | AnyOf | None
    policy: Policy = field(default_factory=Policy)
    stated: Expected = field(default_factory=Expected)
    statements: Sequence[Path] = ()
    rebuilders: Sequence[Key] = ()

    @property
    def expected(self) -> tuple[Expected, ...]:
        """All that is expected: one does not replace the other."""
        return self.policy.expected, self.stated


@dataclass(kw_only=True)
class Case:
    """A release under verification, and what the steps before have established about it.

    What `stack` holds open is what is verified. `files` are those that were read so far, `model`
    those that the OpenSSF model signature is over, if there is one, and `signer` is who signed.
    """

    folder: Path
    demands: Demands
    stack: ExitStack
    opened: foreign.Folder = field(init=False)
    reader: Reader = field(init=False)
    model: Mapping[str, str] | None = None
    signer: Trust | None = None
    release: Release = field(init=False)
    manifest: Manifest = field(init=False)
    source: source_tree.Compared = field(init=False)
    tensors: Mapping[str, Tensor] = field(init=False)
    recipe: Recipe = field(init=False)
    made: figures.Derived = field(init=False)
    report: Report = field(init=False)

    @property
    def files(self) -> Mapping[str, Stored]:
        """The files that were read, by path; from the step `subjects` on, all of them."""
        return self.reader.stored

    @property
    def checkpoint(self) -> dict[str, str]:
        """The sha256 of every file that was built: neither provenance nor document."""
        return {
            name: stored.sha256
            for name, stored in self.files.items()
            if name.partition("/")[0] != PROVENANCE and name not in DOCUMENTS
        }

    @property
    def numbers(self) -> dict[str, bytes]:
        """The bytes of the stored tensors that are one number, by name."""
        return {name: data for one in self._built for name, data in one.numbers.items()}

    @property
    def extremes(self) -> dict[str, tuple[int, int]]:
        """The smallest and the largest bits of the stored scales of blocks and rows, by name."""
        return {name: bits for one in self._built for name, bits in one.extremes.items()}

    @property
    def _built(self) -> Sequence[Stored]:
        built = self.checkpoint
        return [one for name, one in self.files.items() if name in built]

    @property
    def record(self) -> Sequence[Tensor]:
        """The tensors of the calibration record."""
        found = self.files[RECORD].tensors
        return [] if found is None else found.header()

    def data(self, name: str) -> bytes:
        """The bytes of a file that were hashed; those of tensors are not kept."""
        if name not in self.opened.files:
            raise ReleaseError(f"{name}: is not in the folder.")
        data = self.reader.read(name).data
        if data is None:
            raise ReleaseError(f"{name}: is too large to be read.")
        return data


def check_files(case: Case) -> str:
    """1."""
    case.opened = case.stack.enter_context(foreign.opened(case.folder))
    limits.require_bounded(case.opened)
    case.reader = Reader(folder=case.folder, files=case.opened.files)
    told = "".join(f"; {note}" for note in case.opened.notes)
    return f"{len(case.opened.files)} regular files with portable names{told}"


def check_bundles(case: Case) -> str:
    """2."""
    if case.demands.trust is None:
        return "not asked for: nobody vouches for this release"
    for name in BUNDLES.values():
        path = f"{PROVENANCE}/{name}"
        if path not in case.opened.files:
            raise ReleaseError(f"{path}: is missing, so the release is not signed in full.")
        bundle.read(case.data(path), path)
    return f"{len(BUNDLES)} bundles, one signature each"


def check_signatures(case: Case) -> str:
    """3."""
    trusted = case.demands.trust
    if trusted is None:
        return "not asked for: nobody vouches for this release"
    first = f"{PROVENANCE}/{BUNDLES[STATEMENT]}"
    case.signer = signer = trust.signer(trusted, case.data(first), first)
    for name, target in BUNDLES.items():
        path = f"{PROVENANCE}/{target}"
        signed = signer.check(case.data(path), path)
        if signed != case.data(f"{PROVENANCE}/{name}"):
            raise ReleaseError(f"{path}: the signature is over another {name} than the one here.")
    model = f"{PROVENANCE}/{MODEL_SIGNATURE}"
    if model in case.opened.files:
        case.model = signer.check_model(case.data(model), model)
    return f"by {signer.who}, over the very bytes that are read from here on"


def check_statements(case: Case) -> str:
    """4."""
    case.manifest = document.parse(Manifest, case.data(MANIFEST), MANIFEST)
    case.release = document.parse(Release, case.data(LIST), LIST)
    digest = case.files[MANIFEST].sha256
    expected = release_list.purl(case.manifest.asked.target, digest)
    if case.release.predicate.purl != expected:
        raise ReleaseError(f"{LIST}: lists the release {case.release.predicate.purl}, not this.")
    by = publisher.check(case.demands.policy, case.signer, case.manifest, digest)
    return f"SLSA provenance of {case.manifest.asked.target}, and the list of its release{by}"


def check_subjects(case: Case) -> str:
    """5."""
    apart = {LIST, *SIGNATURES}
    _require_sizes(case, apart)
    case.reader.read_all(case.opened.files)
    here = {name: stored.sha256 for name, stored in case.files.items()}
    _require_same(LIST, case.release.subject, {n: d for n, d in here.items() if n not in apart})
    listed = {f"{PROVENANCE}/{name}" for name in (SUMS, TENSORS)}
    built = case.checkpoint | {name: here[name] for name in listed & here.keys()}
    _require_same(MANIFEST, case.manifest.subject, built)
    if case.model is not None and (wrong := model_signature.unlike(case.model, here)) is not None:
        raise ReleaseError(wrong)
    results = case.manifest.results
    beside = {name for name in results.keys() | here.keys() if name.startswith(f"{PROVENANCE}/")}
    for name in sorted({*BESIDE} | beside - apart - {MANIFEST, *SUMMARIES}):
        if results.get(name) is None or results[name] != here.get(name):
            raise ReleaseError(
                f"{name}: {MANIFEST} says sha256 {results.get(name, 'nothing')}, it is "
                f"{here.get(name, 'not there')}."
            )
    return f"{len(case.release.subject)} files released, {len(case.checkpoint)} of them built"


def check_listings(case: Case) -> str:
    """6."""
    arrived = {
        name: one.tensors
        for name, one in case.files.items()
        if one.tensors is not None and name in case.checkpoint
    }
    if deep := next((name for name in arrived if "/" in name), None):
        raise ReleaseError(f"{deep}: lies in a folder, where no index and no loader finds it.")
    index = case.folder / tensorfile.INDEX
    weight_map = None
    if tensorfile.INDEX in case.files:
        weight_map = tensorfile.parse_index(index, case.data(tensorfile.INDEX))
    tensors = tensorfile.join(case.folder, weight_map, arrived, lambda name: arrived[name].header())
    case.tensors = tensors
    lines = [line for one in arrived.values() for line in one.lines()]
    for name, expected in (
        (SUMS, sums.lines(case.checkpoint)),
        (TENSORS, tensor_list.text(lines)),
    ):
        path = f"{PROVENANCE}/{name}"
        _require_lines(path, case.data(path), expected)
    return f"{len(case.checkpoint)} files, {len(tensors)} tensors"


def check_record(case: Case) -> str:
    """7."""
    maxima = case.files[RECORD].numbers
    return recorded.check(
        case.manifest,
        case.checkpoint,
        maxima={tensor.name: maxima.get(tensor.name, b"") for tensor in case.record},
        scales=case.numbers,
    )


def check_chain(case: Case) -> str:
    """8."""
    return chain.check(case.manifest, case.data(f"{PROVENANCE}/{TENSORS}"))


def check_sources(case: Case) -> str:
    """9."""
    case.source = source_tree.check(case.manifest)
    doubt = "" if case.source.doubt is None else f"; {case.source.doubt}"
    return f"those of {case.source.where}{doubt}"


def check_builder(case: Case) -> str:
    """10."""
    policy, builder = case.demands.policy, case.manifest.builder
    if builder not in policy.builders:
        why = f"{builder!r} is not one of {', '.join(policy.builders)}."
        if case.manifest.rehearsal:
            raise ReleaseError(why, remedy="take-rehearsal")
        raise ReleaseError(why)
    if policy.committed and case.source.doubt is not None:
        raise ReleaseError(f"the policy demands a commit, and {case.source.doubt}.")
    return builder


def check_recipe(case: Case) -> str:
    """11."""
    with _derived_here(case.manifest):
        case.recipe = asked.read(case.manifest)
        return asked.check(case.manifest, case.recipe)


def check_contents(case: Case) -> str:
    """12."""
    listed = f"{PROVENANCE}/{TENSORS}"
    here = derived.Here(
        checkpoint=case.checkpoint,
        tensors=case.tensors,
        numbers=case.numbers,
        extremes=case.extremes,
        record=case.record,
        maxima=case.files[RECORD].numbers,
        lines=tensor_list.parse(case.data(listed), listed),
        data=case.data,
    )
    with _derived_here(case.manifest):
        case.made = derived.check(case.manifest, case.recipe, here)
    return case.made.told


def check_expected(case: Case) -> str:
    """13."""
    demands = case.demands
    lines = tensor_list.parse(case.data(f"{PROVENANCE}/{TENSORS}"), TENSORS).values()
    digest = case.files[MANIFEST].sha256
    doubt = case.source.doubt
    said = expectations.check(demands.expected, case.manifest, digest, lines, doubt)
    if demands.policy.max_age_days is not None:
        said.append(expectations.check_age(case.manifest, demands.policy.max_age_days))
    return ", ".join(said) or "nothing is stated of which release it should be"


def check_verification(case: Case) -> str:
    """14."""
    path = f"{PROVENANCE}/{VERIFICATION}"
    case.report = policy.check(
        case.data(path),
        path,
        stated=case.manifest,
        recipe=case.recipe,
        policy=case.demands.policy,
    )
    with _derived_here(case.manifest):
        figures.check(case.report, case.made, path)
    return policy.told(case.report)


def check_documents(case: Case) -> str:
    """15."""
    listed, errors = f"{PROVENANCE}/{TENSORS}", f"{PROVENANCE}/{ERRORS}"
    found = facts.of(
        case.manifest,
        case.recipe,
        case.report,
        lines=tensor_list.parse(case.data(listed), listed).values(),
        calibrated=record.parse_origin(Path(RECORD), case.data(RECORD)),
        errors=case.data(errors) if errors in case.files else b"",
        licence=case.data(facts.LICENCE) if facts.LICENCE in case.files else None,
    )
    here = {name: stored.sha256 for name, stored in case.files.items()}
    return rendered.check(case.manifest, found, here)


def check_summaries(case: Case) -> str:
    """16."""
    licence = licences.identified(case.data(facts.LICENCE)) if facts.LICENCE in case.files else None
    manifest = case.manifest, case.files[MANIFEST].sha256
    made = summaries.documents(*manifest, case.recipe, case.report, licence)
    for path, data in made.items():
        if case.data(path) != data:
            raise ReleaseError(f"{path}: {difference(case.data(path), data)}.")
    return " and ".join(path.removeprefix(f"{PROVENANCE}/") for path in made)


def check_reproductions(case: Case) -> str:
    """17."""
    demands, manifest, signer = case.demands, case.manifest, case.signer
    release = rebuilders.Rebuildable(
        files=case.checkpoint,
        tensors=len(case.tensors),
        manifest_sha256=case.files[MANIFEST].sha256,
        finished=manifest.finished,
        commit=manifest.commit.digest.git_commit if manifest.commit else None,
        builder=manifest.builder,
        signed_by=signer.key.keyid if isinstance(signer, Key) else None,
        policy=demands.policy,
    )
    counted, refused = rebuilders.check(demands.statements, demands.rebuilders, release)
    return rebuilders.require_enough(counted, refused, demands.policy)


@contextmanager
def _derived_here(manifest: Manifest) -> Iterator[None]:
    """Says of what is refused within that other code derived it, if that is so.

    Raises:
        ReleaseError: as what is raised within.
    """
    try:
        yield
    except HallmarkError as error:
        tree = manifest.commit
        if tree is None or rendered.is_of_this_code(manifest):
            raise
        raise ReleaseError(
            f"{error} This code is not the one that built it: check out commit "
            f"{tree.digest.git_commit} and ask again.",
            remedy=error.remedy,
            **error.facts,
        ) from error


def _require_sizes(case: Case, apart: set[str]) -> None:
    """Holds names and sizes to the list, before any other file is read."""
    listed = {one.name: one.annotations.bytes for one in case.release.subject}
    for name in listed:
        check_name(name)
    check_twins(listed)
    here = {name: file.size for name, file in case.opened.files.items() if name not in apart}
    for name in sorted(listed.keys() | here.keys()):
        if name not in here:
            raise ReleaseError(f"{name}: is in {LIST}, but not in the folder.")
        if name not in listed:
            raise ReleaseError(
                f"{name}: is in the folder, but not in {LIST}. If a download left it, remove it."
            )
        if here[name] != listed[name]:
            raise ReleaseError(f"{name}: has {here[name]} bytes, {LIST} says {listed[name]}.")


def _require_same(where: str, subjects: Subjects, files: Mapping[str, str]) -> None:
    """Holds the subjects of a statement to files, both ways."""
    for one in subjects:
        check_name(one.name)
    check_twins(one.name for one in subjects)
    stated = digests(subjects)
    for name in sorted(stated.keys() | files.keys()):
        if name not in files:
            raise ReleaseError(f"{name}: is in {where}, but not in the folder.")
        if name not in stated:
            raise ReleaseError(
                f"{name}: is in the folder, but not in {where}. If a download left it, remove it."
            )
        if stated[name] != files[name]:
            raise ReleaseError(f"{name}: has sha256 {files[name]}, {where} says {stated[name]}.")


def _require_lines(path: str, data: bytes, expected: str) -> None:
    """Holds a listing to what it should be, byte for byte."""
    if data == expected.encode():
        return
    found, wanted = data.decode(errors="replace").splitlines(), expected.splitlines()
    pairs = zip([*found, ""], [*wanted, ""], strict=False)
    number, (here, there) = next(
        ((n, pair) for n, pair in enumerate(pairs, start=1) if pair[0] != pair[1]),
        (len(wanted) + 1, ("other line ends", "")),
    )
    raise ReleaseError(f"{path}, line {number}: says {here!r:.200}, the files say {there!r:.200}.")
