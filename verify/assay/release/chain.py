"""Holds the records of a build's steps to each other, and to the files that the manifest names.

The pipeline says which step reads what of which other, and what its key is made of. So every digest
that a record reads is one that another record wrote, from the files that were fetched down to those
that are released. Times must be possible, no more: a stored result may be older than what it was
made from, if that was lost and made again.
"""

import datetime
import re
from collections.abc import Iterable, Mapping

from forge import pipeline
from forge.calibration import record
from forge.core import canonical
from forge.core.errors import ReleaseError
from forge.inputs import sample_files
from forge.manifest.names import ERRORS, INPUTS, PROVENANCE, TENSORS, VERIFICATION
from forge.manifest.provenance import Manifest, StepRecord
from forge.manifest.tensor_list import TensorLine
from forge.pipeline import Step
from forge.tensors import tensor_list
from forge.tensors.configs import TEMPLATE
from forge.tensors.tensorfile import SUFFIX

# A clock that is further ahead is wrong.
SKEW = datetime.timedelta(days=1)
# Every step but the one that writes the manifest.
STEPS = tuple(step for step in pipeline.STEPS if step.name != "attest")
# Those that write shards.
WRITERS = ("quantize", "graft")
# The inputs that fetch links as they are, and what the roles of the calibration's begin with.
LINKED = ("base", "donor")
SETS = "calibration.sets."
LOG = ".log"  # what libraries and engines had to say is not released

Digests = Mapping[str, str]


def check(manifest: Manifest, tensors: bytes) -> str:
    """Compares the records with each other, and with the files.

    Args:
        manifest: what is stated; the files that it names are there.
        tensors: `tensors.jsonl`, which says what the files hold.

    Raises:
        ReleaseError: naming the first record that another one or a file contradicts.
    """
    records = {name: step.annotations for name, step in manifest.steps.items()}
    _require_steps(records)
    outputs = {name: one.outputs for name, one in records.items()}
    for step in STEPS:
        _require_key(step.name, records[step.name])
        _require_needs(step, records[step.name], outputs)
        _require_time(step.name, records[step.name])
    _require_metadata(manifest, records.values())
    _require_fetched(manifest, outputs["fetch"])
    _require_dressed(outputs)
    _require_listed(outputs, tensors)
    _require_beside(manifest, outputs)
    return f"{len(records)} records, {sum(map(len, outputs.values()))} outputs"


def _require_steps(records: Mapping[str, StepRecord]) -> None:
    expected = [step.name for step in STEPS]
    if missing := [name for name in expected if name not in records]:
        raise ReleaseError(f"step/{missing[0]}: the manifest has no record of it.")
    if extra := sorted(records.keys() - {*expected}):
        raise ReleaseError(f"step/{extra[0]}: is no step; a build has {', '.join(expected)}.")


def _require_key(name: str, made: StepRecord) -> None:
    """Holds a key to the facts that it is made of."""
    if made.code is None:
        raise ReleaseError(f"step/{name}: was not run: its result is taken over from elsewhere.")
    facts = {
        "parameters": made.parameters, "needs": made.needs, "code": made.code,
        "distributions": made.distributions, "system": made.system,
    }  # fmt: skip
    expected = pipeline.key_of(name, facts)
    if made.key != expected:
        raise ReleaseError(
            f"step/{name}: its key is {made.key!r:.100}, what decides its result gives {expected}."
        )


def _require_needs(step: Step, made: StepRecord, outputs: Mapping[str, Digests]) -> None:
    """Holds what a step read to what the steps that it needs wrote."""
    written = step.reads_of(outputs)
    if made.needs.keys() != written.keys():
        raise ReleaseError(
            f"step/{step.name}: needs {', '.join(made.needs) or 'nothing'}; this step needs "
            f"{', '.join(written) or 'nothing'}."
        )
    for name, files in written.items():
        _require_same(f"step/{step.name}", made.needs[name], files, f"step/{name} wrote")


def _require_same(where: str, found: Digests, expected: Digests, whose: str) -> None:
    for path in sorted(found.keys() | expected.keys()):
        here, there = found.get(path, "nothing"), expected.get(path, "nothing")
        if here != there:
            raise ReleaseError(f"{where}: its record has {here} of {path}, {whose} {there}.")


def _require_time(name: str, made: StepRecord) -> None:
    try:
        started, finished = map(datetime.datetime.fromisoformat, (made.started, made.finished))
    except ValueError as error:
        raise ReleaseError(f"step/{name}: states a time that does not exist: {error}.") from error
    if finished < started:
        raise ReleaseError(
            f"step/{name}: finished at {made.finished}, before it started at {made.started}."
        )
    if finished > datetime.datetime.now(datetime.UTC) + SKEW:
        raise ReleaseError(f"step/{name}: finished at {made.finished}, which is in the future.")


def _require_metadata(manifest: Manifest, records: Iterable[StepRecord]) -> None:
    stated = manifest.predicate.run_details.metadata
    records = list(records)
    expected = min(one.started for one in records), max(one.finished for one in records)
    if (stated.started_on, stated.finished_on) != expected:
        raise ReleaseError(
            f"the metadata say that it was built from {stated.started_on} to "
            f"{stated.finished_on}, the steps' records from {expected[0]} to {expected[1]}."
        )


def _require_fetched(manifest: Manifest, outputs: Digests) -> None:
    """Holds what fetch laid out to the inputs that the manifest names."""
    inputs = {one.name: one.digest.sha256 for one in manifest.inputs}
    expected = {name: digest for name, digest in inputs.items() if _top(name) in LINKED}
    for name in outputs.keys() - expected.keys():
        lent = f"donor/{name.partition('/')[2]}"
        if _top(name) == "base" and lent in inputs:  # which files those are, the recipe says
            expected[name] = inputs[lent]
    templates = {name: digest for name, digest in inputs.items() if _top(name) == "template"}
    expected |= {f"template/{TEMPLATE}": digest for digest in templates.values()}
    linked = {p: d for p, d in outputs.items() if _top(p) in {*LINKED, "template"}}
    _require_same("step/fetch", linked, expected, "the inputs have")
    sets = {_top(name).removeprefix(SETS) for name in inputs if name.startswith(SETS)}
    wanted = {INPUTS, "perplexity/text.txt"}
    wanted |= {tensor_list.of_input(role) for role in LINKED if role in map(_top, inputs)}
    wanted |= {_samples(outputs, name) for name in sets}
    pictures = re.compile(rf"calibration/({'|'.join(map(re.escape, sets))})/images/[^/]+")
    made = {path for path in outputs.keys() - linked.keys() if not pictures.fullmatch(path)}
    if differing := sorted(made ^ wanted):
        what = "has no record of" if differing[0] in wanted else "has no such result as"
        raise ReleaseError(f"step/fetch: {what} {differing[0]}.")


def _samples(outputs: Digests, name: str) -> str:
    """Where the samples of a calibration set are, which may be rows that are yet to be joined."""
    samples, rows = (
        f"calibration/{name}/{file}" for file in (sample_files.FILE, sample_files.ROWS)
    )
    return rows if rows in outputs else samples


def _top(path: str) -> str:
    """The first part of a path: an input's role."""
    return path.partition("/")[0]


def _require_dressed(outputs: Mapping[str, Digests]) -> None:
    """Holds what quantize and graft wrote to the checkpoint, which has their shards."""
    shards: dict[str, str] = {}
    for name in WRITERS:
        written = {p: d for p, d in outputs[name].items() if p != tensor_list.FILE}
        dressed = {p: d for p, d in outputs["dress"].items() if p in written}
        _require_same(f"step/{name}", written, dressed, "the checkpoint has")
        shards |= written
    there = {path for path in outputs["dress"] if path.endswith(SUFFIX)}
    if differing := sorted(there ^ shards.keys()):
        raise ReleaseError(f"step/dress: no step that it needs wrote {differing[0]}.")


def _require_listed(outputs: Mapping[str, Digests], tensors: bytes) -> None:
    """Holds the lists of tensors that quantize and graft wrote to that of the checkpoint."""
    lines: dict[str, list[TensorLine]] = {name: [] for name in WRITERS}
    for line in tensor_list.parse(tensors, TENSORS).values():
        writer = next((name for name in WRITERS if line.file in outputs[name]), None)
        if writer is None:
            raise ReleaseError(f"{line.name}: lies in {line.file}, which no step wrote.")
        lines[writer].append(line)
    for name, written in lines.items():
        if written or tensor_list.FILE in outputs[name]:
            found = {tensor_list.FILE: outputs[name].get(tensor_list.FILE, "nothing")}
            there = {tensor_list.FILE: canonical.sha256_text(tensor_list.text(written))}
            _require_same(f"step/{name}", found, there, f"by {TENSORS} it is")


def _require_beside(manifest: Manifest, outputs: Mapping[str, Digests]) -> None:
    """Holds record, report and errors to the files of the provenance."""
    released = {
        _within(name): digest
        for name, digest in manifest.results.items()
        if _top(name) == PROVENANCE
    }
    for step, names in (("calibrate", (record.FILE,)), ("verify", (VERIFICATION, ERRORS))):
        files = {p: d for p, d in outputs[step].items() if not p.endswith(LOG)}
        beside = {name: released[name] for name in names if name in released}
        _require_same(f"step/{step}", files, beside, f"{PROVENANCE}/ has")


def _within(name: str) -> str:
    return name.partition("/")[2]
