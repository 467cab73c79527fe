"""Counts what our own code reads and hashes, over a whole rehearsal, and prints it as JSON.

    python tests/byte_counts.py <empty folder> [--calibrate]

Every way by which Python reads a file is counted by inode, so a file is the same one under all of
its names: `open` and what stands on it, and `os.read`, `pread`, `preadv`, `sendfile` and
`copy_file_range`. What a library reads in its own machine code (safetensors in Rust, for
transformers) is not ours and not seen. Of a safetensors file, bytes of tensors are counted; its
header is read wherever the names of the tensors are needed.

Without `--calibrate`, the record is written by hand, and the release is signed, verified and
reproduced besides; with it, the real calibration runs, which needs torch.
"""

import builtins
import hashlib
import io
import json
import os
import stat
import sys
from collections import Counter, defaultdict
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import MappingProxyType, SimpleNamespace

VARIANT = "qwen36-27b-vlm-mtp"
# Smaller files are configs, parsed wherever one of their keys is asked for.
SMALLEST = 64 << 10

reads = []  # (phase, inode, offset, bytes)
hashed = Counter()  # bytes given to sha256, by phase
phase = "before"


def inode(descriptor):
    status = os.fstat(descriptor)
    return f"{status.st_dev}:{status.st_ino}"


def seen(descriptor, offset, count):
    reads.append((phase, inode(descriptor), offset, count))


class CountedFile(io.FileIO):
    """A file whose reading is counted."""

    def readinto(self, buffer):
        offset = self.tell()
        count = super().readinto(buffer)
        seen(self.fileno(), offset, count)
        return count

    def read(self, size=-1):
        offset = self.tell()
        data = super().read(size) if size >= 0 else super().readall()
        seen(self.fileno(), offset, len(data))
        return data

    def readall(self):
        return self.read()


def counted_open(  # noqa: PLR0917 - those of `open`
    file,
    mode="r",
    buffering=-1,
    encoding=None,
    errors=None,
    newline=None,
    closefd=True,
    opener=None,
):
    if set(mode) & set("wax+"):
        return real_open(file, mode, buffering, encoding, errors, newline, closefd, opener)
    if not stat.S_ISREG((os.fstat if isinstance(file, int) else os.stat)(file).st_mode):
        return real_open(file, mode, buffering, encoding, errors, newline, closefd, opener)
    raw = CountedFile(file, "r", closefd, opener)
    if buffering == 0:
        return raw
    buffered = io.BufferedReader(raw, buffering if buffering > 1 else io.DEFAULT_BUFFER_SIZE)
    return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding, errors, newline)


class CountedHash:
    """A sha256 whose bytes are counted."""

    def __init__(self, data=b"", **kwargs):
        self._hash = real_sha256(**kwargs)
        self.digest, self.hexdigest = self._hash.digest, self._hash.hexdigest
        self.name, self.digest_size, self.block_size = "sha256", 32, 64
        self.update(data)

    def update(self, data):
        hashed[phase] += memoryview(data).nbytes
        self._hash.update(data)


def counted_file_digest(file, name):
    assert name == "sha256"
    digest = CountedHash()
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    return digest


def counted(real, *, source, offset):
    """A call of `os` that reads: where its arguments have the descriptor and the offset."""

    def call(*args):
        if not stat.S_ISREG(os.fstat(args[source]).st_mode):
            return real(*args)
        before = os.lseek(args[source], 0, os.SEEK_CUR) if offset is None else args[offset] or 0
        got = real(*args)
        seen(args[source], before, got if isinstance(got, int) else len(got))
        return got

    return call


real_open, real_sha256 = io.open, hashlib.sha256
io.open = builtins.open = counted_open
hashlib.sha256, hashlib.file_digest = CountedHash, counted_file_digest
os.read = counted(os.read, source=0, offset=None)
os.pread = counted(os.pread, source=0, offset=2)
os.preadv = counted(os.preadv, source=0, offset=2)
os.sendfile = counted(os.sendfile, source=1, offset=2)
os.copy_file_range = counted(os.copy_file_range, source=0, offset=None)


@contextmanager
def during(name):
    global phase  # noqa: PLW0603 - every reader looks there
    before, phase = phase, name
    try:
        yield
    finally:
        phase = before


def main():
    from forge import pipeline
    from forge.core.store import Store
    from forge.inputs import fetch
    from forge.pipeline import Job
    from forge.recipes import recipe
    from forge.release.placement import place
    from forge.tensors import tensorfile

    root, real = Path(sys.argv[1]), "--calibrate" in sys.argv
    find = pipeline.module_of

    def watched(step):
        """The module of a step, which tells what it is at."""
        module, within = find(step), phase

        def run(work, out):
            with during(step if within == "before" else f"{within}: {step}"):
                return module.run(work, out)

        return SimpleNamespace(__name__=module.__name__, parameters=module.parameters, run=run)

    recheck = pipeline.recheck

    def rechecking(results, *, trusted=MappingProxyType({}), whole=()):
        """What a step lends to a library counts as its own."""
        lending = [step.name for step in pipeline.STEPS if trusted and trusted is step.lends]
        with during(lending[0]) if lending else nullcontext():
            recheck(results, trusted=trusted, whole=whole)

    pipeline.module_of, pipeline.recheck = watched, rechecking
    wanted = recipe.find(VARIANT)
    store = Store(root / "store")
    job = fetch.choose(Job(recipe=wanted, store=store, rehearsal=True, level="structure"))
    given = pipeline.run(job, until="fetch")
    plan = pipeline.work_on(job, given).checkpoint.plan

    if not real:
        from released import calibrated_by_hand

        given["calibrate"] = calibrated_by_hand(job, given)
    results = pipeline.run(job, given=given)
    release = root / "release"
    with during("place"):
        place(results, release)
    folders = {"base": results["fetch"].files / "base", "result": results["dress"].files}
    if not real:
        publish(release, root)
        folders["release"] = release
    with during("before"):
        stored = tensorfile.read_checkpoint(results["dress"].files)
    packed = sum(
        stored[spec.name].nbytes
        for linear in plan.linears.values()
        for spec in linear.format.specs(linear.module, linear.place.shape)
    )
    report(sizes(folders), results["fetch"].files / "inputs.json", packed)


def publish(release, root):
    """What a publisher does with a build, and a stranger with the release."""
    from assay.rebuild import reproduce
    from assay.release import steps, trust
    from assay.release import verify as verify_release
    from forge.core.store import Store
    from forge.manifest.policy import KNOWN_BUILDERS, Policy
    from forge.release import assemble, keys, signing

    with during("release"):
        assemble.assemble(release)
    keys.generate(root / "key")
    with during("sign"):
        signing.sign(release, root / "key")
    with during("verify-release"):
        trusted = trust.by_key(root / "key.pub")
        demands = steps.Demands(trust=trusted, policy=Policy(builders=KNOWN_BUILDERS))
        verify_release.verify(release, demands, lambda _: None)
    with during("reproduce"):
        assert reproduce.run(release, Store(root / "store")).identical


def sizes(folders):
    """Each file that counts: its inode, where its bytes begin, and how many there are."""
    from forge.tensors import tensorfile

    found = {}
    with during("before"):
        for role, folder in folders.items():
            for path in sorted(folder.iterdir()):
                if not path.is_file() or path.stat().st_size < SMALLEST:
                    continue
                start = 0
                if path.suffix == ".safetensors":
                    start = tensorfile.read_header(path)[0].offset
                status = path.stat()
                found[f"{role}/{path.name}"] = {
                    "inode": f"{status.st_dev}:{status.st_ino}",
                    "start": start,
                    "bytes": status.st_size - start,
                }
    return found


def report(files, inputs, packed):
    """How many bytes of each file were read in each phase, and how many were hashed."""
    found = defaultdict(Counter)
    for name, file in files.items():
        for when, which, offset, count in reads:
            if which == file["inode"] and when != "before":
                end = offset + count
                found[name][when] += max(0, end - max(offset, file["start"]))
    print(  # noqa: T201 - for the test that runs this
        json.dumps(
            {
                "sizes": {name: file["bytes"] for name, file in files.items()},
                "read": {name: dict(+counts) for name, counts in found.items()},
                "hashed": dict(hashed),
                "packed": packed,
                "inputs": sum(
                    one["bytes"] for one in json.loads(inputs.read_text(encoding="utf-8"))["files"]
                ),
            }
        )
    )


if __name__ == "__main__":
    main()
