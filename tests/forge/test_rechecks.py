"""A bit that flips under an unchanged size and time is found where bytes are attested or placed."""

import errno
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import FACTS, FLAGSHIP

from forge import ledger as ledgers
from forge import pipeline
from forge.calibration import calibrate, record
from forge.checkpoint import graft
from forge.core.errors import StoreError
from forge.core.store import Store
from forge.inputs import standin
from forge.pipeline import Job
from forge.recipes import recipe
from forge.release.placement import place
from forge.tensors import tensorfile


def flip(path, at=None):
    """One bit, by default in the middle, as a disk may lose it: size and time say nothing of it."""
    stat = path.stat()
    at = stat.st_size // 2 if at is None else at
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def job_of(root, level):
    origins = dict.fromkeys(recipe.find(FLAGSHIP).sources, "standin")
    return Job(
        recipe=recipe.find(FLAGSHIP), store=Store(root), rehearsal=True, level=level,
        origins=origins,
    )  # fmt: skip


def run(job):
    """As a build does; the calibration record is written by hand."""
    given = pipeline.run(job, until="fetch")

    def by_hand(out):
        plan = pipeline.work_on(job, given).checkpoint.plan
        record.write(out / record.FILE, dict.fromkeys(plan.calibrated, 1.0), {"device": "a hand"})

    given["calibrate"] = job.store.get("calibrate", "by hand") or job.store.make(
        "calibrate", "by hand", by_hand, FACTS
    )
    return pipeline.run(job, given=given)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A store with what builds of two levels left, and the results of the second."""
    root = tmp_path_factory.mktemp("stored")
    run(job_of(root / "store", "none"))
    return root / "store", run(job_of(root / "store", "structure"))


@pytest.fixture
def job(stored, tmp_path):
    """A store of one's own, its links kept; nothing was asked of it yet."""
    subprocess.run(["cp", "-a", stored[0], tmp_path / "store"], check=True)
    return job_of(tmp_path / "store", "structure")


@pytest.fixture
def found(job, stored):
    """What a build finds in it."""
    return {name: job.store.get(name, one.key) for name, one in stored[1].items()}


def again(job, *steps):
    """Forgets what these steps left, as another commit or a change to their code does."""
    for step in steps:
        for result in (job.store.root / step).iterdir():
            job.store.remove(job.store.get(step, result.name))


BODY, HEAD = "model-00001-of-00001.safetensors", "model-mtp.safetensors"
# What a step uses, and does not compare with its digest as it reads it.
USED = [
    ("calibrate", "fetch", "calibration/llm/samples.jsonl"),
    ("quantize", "calibrate", "calibration.safetensors"),
    ("verify", "fetch", "perplexity/text.txt"),
    ("verify", "quantize", "tensors.jsonl"),
    ("verify", "graft", "tensors.jsonl"),
    ("attest", "fetch", "inputs.json"),
    ("attest", "calibrate", "calibration.safetensors"),
    ("attest", "quantize", "tensors.jsonl"),
    ("attest", "quantize", BODY),
    ("attest", "graft", "tensors.jsonl"),
    ("attest", "graft", HEAD),
    ("attest", "dress", "tokenizer.json"),
    ("attest", "dress", "config.json"),
    ("attest", "verify", "verification.json"),
    ("attest", "verify", "quantization_error.jsonl"),
]


@pytest.mark.parametrize(("name", "of", "path"), USED)
def test_a_flipped_bit_is_found_before_a_step_uses_it(found, name, of, path):
    """It is named, and the results that have it are removed."""
    step = next(one for one in pipeline.STEPS if one.name == name)
    flip(found[of].files / path)
    gone = rf"{path}: has sha256 .*Removed from the store: [^.]*\b{of} .*Run again"
    with pytest.raises(StoreError, match=gone):
        pipeline.recheck(found, trusted=step.trusts, whole=step.vouches)
    assert not found[of].files.exists()


@pytest.mark.parametrize(
    ("file", "step"),
    [
        ("fetch/*/files/tensors/base.jsonl", "graft"),
        ("calibrate/*/files/calibration.safetensors", "quantize"),
        (f"graft/*/files/{HEAD}", "attest"),
    ],
)
def test_a_build_does_not_attest_a_flipped_bit(job, stored, file, step):
    """It ends before the step works; the next one makes what was there before."""
    steps = [one.name for one in pipeline.STEPS]
    again(job, *steps[steps.index(step) :])
    (damaged,) = job.store.root.glob(file)
    flip(damaged)
    with pytest.raises(StoreError, match=f"{damaged.name}: has sha256"):
        run(job)
    made = run(job)["attest"].digests
    for name in ("SHA256SUMS", "tensors.jsonl"):
        assert made[name] == stored[1]["attest"].digests[name]


@pytest.mark.parametrize("level", ["none", "structure"])
def test_a_report_or_a_shard_of_an_earlier_build(job, level):
    """With VERIFY=none nobody but attest reads a shard; dress has the same bytes and goes, too."""
    none = job_of(job.store.root, level)
    again(job, "attest")
    (shard,) = job.store.root.glob(f"dress/*/files/{BODY}")
    flip(shard)
    with pytest.raises(StoreError, match=r"Removed from the store: quantize \w{12}, dress \w{12}"):
        run(none)
    assert run(none)["attest"].checked


@pytest.mark.parametrize(
    ("step", "name"), [("quantize", BODY), ("dress", "tokenizer.json"), ("attest", "tensors.jsonl")]
)
def test_a_flipped_bit_is_not_placed(found, tmp_path, step, name):
    """Nothing had to be made, so nobody but the last has a look at the bytes."""
    flip(found[step].files / name)
    assert not any(one.checked for one in found.values())
    with pytest.raises(StoreError, match=f"{name}: has sha256"):
        place(found, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_this_build_hashed_is_not_hashed_again(job, tmp_path, monkeypatch):
    """In another process as well: the ledger says so. What was found is hashed, once an inode."""
    again(job, "quantize", "graft", "dress", "verify", "attest")
    results = run(job)
    ledgers.write(tmp_path / "ledger.json", job, results)
    _, told = ledgers.read(tmp_path / "ledger.json")
    assert {name for name, one in told.items() if one.checked} == {
        "quantize", "graft", "dress", "verify", "attest",
    }  # fmt: skip
    read = []
    real = pipeline.require_recorded
    monkeypatch.setattr(
        pipeline, "require_recorded", lambda files, of: read.append(files) or real(files, of)
    )
    place(told, tmp_path / "out")
    assert {path.suffix for files in read for path in files} == {
        ".json",
        ".jsonl",
        ".safetensors",
        "",
    }
    assert not [path for files in read for path in files if path.name in {BODY, HEAD}]


def test_a_whole_checkpoint_of_old_shards_is_not_taken_for_new(job, found):
    """Dress links them, and has not read them."""
    flip(found["quantize"].files / BODY)
    again(job_of(job.store.root, "none"), "dress", "verify", "attest")
    with pytest.raises(StoreError, match=f"{BODY}: has sha256"):
        run(job_of(job.store.root, "none"))


def test_a_damaged_shard_does_not_fail_verification_for_ever(job, stored):
    """Verify finds it in its own pass; it is removed, and the next build is whole."""
    again(job, "verify", "attest")
    (shard,) = job.store.root.glob(f"quantize/*/files/{BODY}")
    flip(shard)
    with pytest.raises(StoreError, match=r"Removed from the store: quantize \w{12}, dress \w{12}"):
        run(job)
    assert run(job)["attest"].digests["SHA256SUMS"] == stored[1]["attest"].digests["SHA256SUMS"]


def test_a_damaged_base_is_fetched_again(job, tmp_path):
    """Graft finds it in its own pass. What is linked is removed from the store by its links."""
    checkpoint = standin.ROOT / "qwen36-dense" / "checkpoint"
    base = shutil.copytree(checkpoint, tmp_path / "base")
    job = replace(job, base=base, origins={**job.origins, "base": "local"})
    given = pipeline.run(job, until="fetch")
    tensors = tensorfile.read_checkpoint(given["fetch"].files / "base")
    file, at = tensors["mtp.fc.weight"].file.resolve(), tensors["mtp.fc.weight"].offset
    flip(file, at)
    again(job, "graft")
    with pytest.raises(StoreError, match=r"has sha256 .*Removed from the store: fetch \w{12}"):
        run(job)
    flip(file, at)
    assert run(job)["attest"].checked


@pytest.mark.parametrize("name", ["model-00002-of-00002.safetensors", "config.json"])
def test_a_bit_that_flips_while_a_library_reads_the_base(job, tmp_path, monkeypatch, name):
    """No record is left of it, nor the fetch; in place of forward passes is a record by hand."""
    base = shutil.copytree(standin.ROOT / "qwen36-dense" / "checkpoint", tmp_path / "base")
    job = replace(job, base=base, origins={**job.origins, "base": "local"})

    flips = [base / name]

    def by_hand(made, inputs, path, bar):
        del inputs, bar
        record.write(path, dict.fromkeys(made.plan.calibrated, 1.0), {"device": "a hand"})
        for file in flips:
            flip(file)

    monkeypatch.setattr(calibrate, "calibrate", by_hand)
    before = set((job.store.root / "calibrate").iterdir())
    with pytest.raises(StoreError, match=rf"{name}: has sha256 .*Removed from the store: fetch"):
        pipeline.run(job, until="calibrate")
    assert set((job.store.root / "calibrate").iterdir()) == before
    flip(flips.pop())
    assert pipeline.run(job, until="calibrate")["calibrate"].checked


def refusing_below(folder, code):
    """`os.open`, which the system refuses for all files below a folder."""
    real = os.open

    def opened(path, *arguments, **named):
        if Path(path).is_relative_to(folder):
            raise OSError(code, os.strerror(code), str(path))
        return real(path, *arguments, **named)

    return opened


def test_what_the_disk_does_not_give_is_set_aside(found, monkeypatch):
    """It may be whole, and cost hours; the next build makes another. Injected into `os.open`."""
    files = found["calibrate"].files
    with monkeypatch.context() as patched:
        patched.setattr(os, "open", refusing_below(files, errno.EIO))
        with pytest.raises(StoreError, match="calibration.safetensors: Input/output error"):
            pipeline.recheck(found, whole=["calibrate"])
    store = Store(files.parents[2])
    assert store.get("calibrate", found["calibrate"].key) is None
    # The attestation has the file as well, under another name.
    assert [path.name.split("-")[0] for path in store.entries("aside")] == ["attest", "calibrate"]


def failing(path):
    """Has the disk not give a file: a real EIO, as of a page of memory that is not mapped."""
    path.unlink()
    path.symlink_to("/proc/self/mem")


# What a step reads, and does not hash before it works.
READ = [
    ("calibrate", "fetch", "base/model-00002-of-00002.safetensors"),
    ("quantize", "fetch", "base/model-00002-of-00002.safetensors"),
    ("graft", "fetch", "base/model-00001-of-00002.safetensors"),
    ("dress", "fetch", "base/config.json"),
    ("dress", "quantize", BODY),
    ("dress", "graft", HEAD),
    ("verify", "fetch", "base/model-00002-of-00002.safetensors"),
    ("verify", "dress", BODY),
    ("attest", "fetch", "base/config.json"),
]


@pytest.mark.parametrize(("name", "of", "path"), READ)
def test_what_the_disk_does_not_give_is_met_once(job, found, name, of, path):
    """Whichever step reads it: the result that has it is set aside, and the next build is whole."""
    sums = found["attest"].digests["SHA256SUMS"]
    steps = [one.name for one in pipeline.STEPS]
    later = steps[steps.index(name) :]
    again(job, *(step for step in later if step != "calibrate"))
    failing(found[of].files / path)
    given = {step: found[step] for step in steps if step not in later}
    with pytest.raises(StoreError, match=rf"{path}: Input/output error.*Set aside in .*: {of} "):
        pipeline.run(job, given=given, until=name)
    assert [one.name[: len(of)] for one in job.store.entries("aside")] == [of]
    assert run(job)["attest"].digests["SHA256SUMS"] == sums


def test_a_manifest_that_the_disk_does_not_give_is_met_once(job, found, tmp_path):
    """Where it is compared with that of the build which it replaces; the next build is placed."""
    out, manifest = tmp_path / "out", Path("provenance", "provenance.json")
    place(found, out)
    stated = (out / manifest).read_bytes()
    (out / manifest).unlink()  # its bytes are those of the store
    (out / manifest).write_bytes(stated.replace(b'"verified":"structure"', b'"verified":"all"'))
    failing(found["attest"].files / manifest.name)
    with pytest.raises(StoreError, match=r"provenance.json: Input/output error.*aside .*: attest "):
        place(found, out, replace=True)
    place(run(job), out, replace=True)
    assert b'"verified":"structure"' in (out / manifest).read_bytes()


def test_a_result_that_is_gone_when_it_is_to_be_placed(found, tmp_path):
    """As fsck removes one that is damaged, beside a build that has it."""
    shutil.rmtree(found["dress"].files.parent)
    with pytest.raises(StoreError, match="is not in the store any more. Run again, which makes t"):
        place(found, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_all_results_that_share_a_damaged_file_leave_their_place(job, found):
    """An attestation has the report of the step verify under another name."""
    report = found["attest"].files / "verification.json"
    assert report.samefile(found["verify"].files / report.name)
    flip(report)
    with pytest.raises(StoreError, match=r"Removed from the store: verify \w{12}, attest \w{12}\."):
        pipeline.recheck(found, trusted={"attest": ("",)})
    assert run(job)["attest"].digests.keys() == found["attest"].digests.keys()


def test_what_is_removed_and_what_is_set_aside_is_told_apart(found):
    """Of two results that a step uses, one is damaged, and one is not to be had off the disk."""
    flip(found["quantize"].files / "tensors.jsonl")
    failing(found["graft"].files / "tensors.jsonl")
    gone = r"Removed from the store: quantize \w{12}\. Set aside in the store: graft \w{12}\. Run"
    with pytest.raises(StoreError, match=gone):
        pipeline.recheck(found, whole=["quantize", "graft"])


def test_a_step_that_another_fault_ends_has_nothing_hashed(found, monkeypatch):
    """A full disk says nothing of what it read, which may be 50 GB."""

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "file")

    monkeypatch.setattr(graft, "run", full)
    monkeypatch.setattr(pipeline, "require_recorded", lambda files, _: asked.extend(files))
    asked: list[Path] = []
    step = next(one for one in pipeline.STEPS if one.name == "graft")
    work = pipeline.work_on(job_of(found["fetch"].files.parents[2], "none"), found)
    with pytest.raises(OSError, match="No space left"):
        pipeline._checked_run(step, graft, work, found, Path("out"))
    assert asked == []


def test_a_result_without_what_its_step_leaves_is_made_again(job, found, stored):
    """Of each step, as its record has it; a head that is dropped on purpose leaves nothing."""
    for name, one in found.items():
        if name == "calibrate":
            continue  # whose key is no key here
        left = pipeline.leaves_of(one.record)
        assert left <= one.digests.keys()
        assert left, name
    shard = found["dress"].record.outputs.keys() - {BODY}
    outputs = {path: found["dress"].record.outputs[path] for path in shard}
    record = found["dress"].record.model_copy(update={"outputs": outputs})
    found["dress"].files.with_name("record.json").write_bytes(record.encoded())
    (found["dress"].files / BODY).unlink()
    made = run(job)
    assert made["dress"].digests == stored[1]["dress"].digests
    dropped = found["graft"].record.model_copy(update={"parameters": {"source": None}})
    assert pipeline.leaves_of(dropped) == set()


def test_an_unreadable_file_is_not_taken_for_a_damaged_one(found, monkeypatch):
    """The system's refusal is told as that, and nothing is removed. Injected into `os.open`."""
    with monkeypatch.context() as patched:
        patched.setattr(os, "open", refusing_below(found["dress"].files, errno.EACCES))
        with pytest.raises(PermissionError):
            pipeline.recheck(found, whole=["dress"])
    pipeline.recheck(found, whole=["dress"])
    assert found["dress"].checked
