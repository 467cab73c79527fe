"""The driver, with a runner that runs the steps in this process: what it places, and what not."""

import json
import re
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import released
from conftest import FLAGSHIP
from released import Here, here

from forge import driver
from forge.core import canonical
from forge.core.errors import BaseError, StoreError
from forge.core.store import Store
from forge.pipeline import Job
from forge.recipes import recipe
from forge.tensors import tensorfile


@pytest.fixture
def job(tmp_path):
    base = released.local_base(tmp_path / "base")
    return Job(
        recipe=recipe.find(FLAGSHIP),
        store=Store(tmp_path / "store"),
        rehearsal=True,
        base=base,
        level="structure",
    )


def spoil(name, change):
    """Changes one tensor of the small base in place, or a key of its config if `name` is None."""

    def work(base):
        if name is None:
            config = json.loads((base / "config.json").read_text(encoding="utf-8"))
            canonical.write(base / "config.json", config | change)
        else:
            for tensor in tensorfile.read_checkpoint(base).values():
                if tensor.name.startswith(name):
                    with tensor.file.open("r+b") as file:
                        file.seek(tensor.offset)
                        file.write(change(tensor.read()))

    return work


NAN = b"\xc0\x7f"
EMBEDDED, NORM = "model.language_model.embed_tokens.weight", "model.language_model.norm.weight"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (spoil(NORM, lambda old: old[:6] + NAN + old[8:]), rf"'{NORM}' holds NaN at \[3\]"),
        (spoil("model.visual.pos", lambda old: old[:-2] + NAN), r"holds NaN at \[15, 7\]"),
        (spoil(EMBEDDED, lambda old: b"\x80\xff" + old[2:]), r"holds -infinity at \[0, 0\]"),
        (spoil("mtp.norm", lambda old: NAN + old[2:]), r"'mtp.norm.weight' holds NaN at \[0\]"),
        (spoil("mtp.", lambda old: bytes(len(old))), "all 8 matrices of the MTP head are zero"),
        (spoil(None, {"tie_word_embeddings": True}), "'lm_head.weight' is there and differs"),
        (spoil(None, {"architectures": ["X"]}), r'architectures is \["X"\]'),
    ],
)
def test_a_base_that_no_model_can_be_made_of(job, tmp_path, monkeypatch, damage, message):
    """It is refused before the environments of the other steps are started."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    damage(job.base)
    started = here(job, lambda: pytest.fail("the build has gone on"))
    with pytest.raises(BaseError, match=message) as told:
        driver.build(job, tmp_path / "out", started)
    assert str(job.base) in str(told.value)


def test_norms_of_zeros_are_built(job, tmp_path, monkeypatch):
    """This family's norms are 1 + w."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    spoil(NORM, lambda old: bytes(len(old)))(job.base)
    assert driver.build(job, tmp_path / "out", here(job)) == 0


def test_a_neighbour_at_the_same_folder(job, tmp_path, monkeypatch):
    """Of another result one clear refusal, even where replacing is allowed; then it is placed."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    out, manifest = tmp_path / "out", Path("provenance", "provenance.json")
    assert driver.build(job, tmp_path / "other", here(job)) == 0
    other = tmp_path / "other" / manifest
    stated = other.read_bytes()
    other.unlink()  # its bytes are those of the store
    other.write_bytes(stated.replace(b'"verified":"structure"', b'"verified":"all"'))

    def placed():
        shutil.copytree(tmp_path / "other", out)

    with pytest.raises(StoreError, match="another build, with another result, was placed there"):
        driver.build(job, out, here(job, placed), replace=True)
    assert (out / manifest).read_bytes() == other.read_bytes()
    assert driver.build(job, out, here(job)) == 0
    assert (out / manifest).read_bytes() != other.read_bytes()
    assert driver.build(job, out, here(job)) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "other", "out", "store"]
    assert list((tmp_path / "store" / "tmp").iterdir()) == []


def test_a_signed_release_at_the_folder(job, tmp_path, monkeypatch):
    """An unchanged build leaves it; another is refused, unless replacing is allowed."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    out = tmp_path / "out"
    assert driver.build(job, out, here(job)) == 0
    signature = out / "provenance" / "provenance.sigstore.json"
    signature.write_text("{}", encoding="utf-8")
    assert driver.build(job, out, here(job)) == 0
    (out / "config.json").unlink()
    with pytest.raises(StoreError, match="is signed"):
        driver.build(job, out, here(job))
    assert signature.exists()
    assert driver.build(job, out, here(job), replace=True) == 0
    assert not signature.exists()


# A mapped file of which there is nothing to read any more, as of a bad sector.
MAPS = """
import mmap, os, sys
with open(sys.argv[1], "wb+") as file:
    file.truncate(1)
    mapped = mmap.mmap(file.fileno(), 1)
    file.truncate(0)
    mapped[0]
"""


def test_a_mapped_base_that_the_disk_does_not_give(job, tmp_path, monkeypatch):
    """A real SIGBUS ends the process that has mapped it; the error names the file."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    shard = job.base / "model-00001-of-00002.safetensors"
    whole = shard.read_bytes()

    class Maps(Here):
        def run(self, environment, ledger, fetched):
            """Of the first process of a build, which is what torch does."""
            del environment, ledger, fetched
            shard.unlink()
            shard.symlink_to("/proc/self/mem")  # a real EIO: its first page is not mapped
            command = [sys.executable, "-c", MAPS, tmp_path / "mapped"]
            return 128 - subprocess.run(command, check=False).returncode

    with job.store.scratch("ledger") as folder, pytest.raises(StoreError) as told:
        driver.build(job, tmp_path / "out", nullcontext(Maps(folder, None)))
    assert re.search(rf"{shard.name}: Input/output error.*Set aside .*: fetch", str(told.value))
    shard.unlink()
    shard.write_bytes(whole)
    assert driver.build(job, tmp_path / "out", here(job)) == 0
