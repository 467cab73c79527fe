"""The store publishes whole results only, each once."""

import errno
import os
import re
import resource
import select
import signal
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from stored import KILLED, left, make

from forge.core.errors import FileSystemError, StoreError
from forge.core.store import Store

# As the pipeline makes a result. Says when it asks for the lock and when it works, works until it
# is told to go on, and says at last what the result holds.
BUILDER = """
import os, sys
from pathlib import Path
from forge.core.store import Store
def work(out):
    print("works", flush=True)
    sys.stdin.readline()
    (out / "file").write_text(str(os.getpid()))
store, key = Store(Path(sys.argv[1])), sys.argv[2]
print("asks", flush=True)
with store.lock("step", key):
    result = store.get("step", key) or store.make("step", key, work, {})
print(result.record.key, result.digests["file"], (result.files / "file").read_text(), flush=True)
"""


def test_result_is_found_again(store):
    made = make(store)
    found = store.get("step", "key")
    assert made.digests == found.digests
    assert (found.files / "file").read_bytes() == b"data"
    assert store.get("step", "other") is None


def test_failed_work_leaves_nothing(store):
    def work(out):
        (out / "file").write_bytes(b"x")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        store.make("step", "key", work, {})
    assert store.get("step", "key") is None
    assert not list((store.root / "tmp").iterdir())


def test_killed_work_is_made_anew(store):
    """Kill -9 in the middle: nothing is published, and the next run finishes."""
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(store.root)], stdout=subprocess.PIPE, encoding="utf-8"
    )
    assert child.stdout.readline() == "working\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert store.get("step", "key") is None
    assert (make(store).files / "file").read_bytes() == b"data"
    assert sorted(path.name for path in make_listing(store)) == ["file"]
    assert left(store) == []


WRITES = """
import os, signal, sys
from pathlib import Path
from forge.core.store import Store
calls = iter(range(100))
def counted(of):
    def call(*arguments, **named):
        if next(calls) == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
        return of(*arguments, **named)
    return call
for name in ("fsync", "replace"):
    setattr(os, name, counted(getattr(os, name)))
Store(Path(sys.argv[1])).get("step", "key")
"""


@pytest.mark.parametrize("number", [0, 1, 2])
def test_killed_while_a_record_is_rewritten(store, number):
    """A real kill before the record's fsync, its rename, and the fsync of its folder."""
    made = make(store)
    os.utime(made.files / "file", (1, 1))
    done = subprocess.run([sys.executable, "-c", WRITES, str(store.root), str(number)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert store.get("step", "key").digests == made.digests
    assert not (store.root / "aside").exists()


def make_listing(store):
    return store.get("step", "key").files.iterdir()


def test_a_refusal_to_a_steps_work_is_the_works(store):
    """A real one: the file, operation and reason are told, and nothing of the store."""

    def work(out):
        (out / "missing" / "file").write_bytes(b"x")

    with pytest.raises(FileSystemError) as refused:
        store.make("step", "key", work, {})
    facts = refused.value.facts
    assert facts["path"].endswith("files/missing/file")
    assert (facts["operation"], facts["reason"]) == ("open", "No such file or directory")
    assert str(refused.value) == f"step: {facts['path']}: No such file or directory (open)"
    assert left(store) == []


def test_a_file_that_may_not_grow(store):
    """A real limit; with room again, the same call succeeds."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(FileSystemError, match=r"^step: File too large, on writing to .*/files"):
            make(store, bytes(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert store.get("step", "key") is None
    assert make(store, bytes(5000)).files.is_dir()


@pytest.mark.parametrize(
    ("name", "full"),
    [("ENOSPC", True), ("EDQUOT", True), ("EIO", False), ("EACCES", False), ("EROFS", False)],
)
def test_only_a_full_disk_is_told_as_one(store, name, full):
    """Raised by the work itself; what is free is that of the real disk."""

    def work(out):
        raise OSError(getattr(errno, name), os.strerror(getattr(errno, name)), str(out / "x"))

    with pytest.raises(FileSystemError, match=os.strerror(getattr(errno, name))) as refused:
        store.make("step", "key", work, {})
    assert bool(re.search(r"The disk is full: [\d.]+ [GM]B are free", str(refused.value))) == full


def test_errors_of_libraries_pass(store):
    """Those that are called OSErrors and come from no file."""

    def work(_):
        raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")

    with pytest.raises(ConnectionResetError):
        store.make("step", "key", work, {})


@pytest.mark.parametrize("operation", ["fsync", "mkdir", "rename"])
@pytest.mark.parametrize("name", ["ENOSPC", "EIO", "EROFS"])
def test_a_refusal_to_the_store_is_the_stores(store, monkeypatch, operation, name):
    """Injected into `os`; the next run, without it, succeeds and leaves nothing."""
    code = getattr(errno, name)

    def refuse(*_, **__):
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patched:
        patched.setattr(os, operation, refuse)
        with pytest.raises(StoreError, match=rf"cannot be written: .*{os.strerror(code)}"):
            make(store)
    assert store.get("step", "key") is None
    assert make(store).files.is_dir()
    assert left(store) == []


def test_a_store_that_cannot_be(tmp_path):
    """Real places: a file, and a folder of the kernel's in which nothing can be made."""
    (tmp_path / "file").touch()
    for root in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/below")):
        with pytest.raises(StoreError, match=f"^the store {root} cannot be written: {root}"):
            make(Store(root))
        with (
            pytest.raises(StoreError, match=f"^the store {root} cannot be written"),
            Store(root).lock("step", "key"),
        ):
            pass


@contextmanager
def builders(store, *keys):
    """A process a key, each of which has asked for the lock."""
    with ExitStack() as stack:
        running = []
        for key in keys:
            child = subprocess.Popen(
                [sys.executable, "-c", BUILDER, store.root, key],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,  # so that select sees all that was said
            )
            stack.enter_context(child)
            stack.callback(child.kill)
            running.append(child)
        assert [child.stdout.readline() for child in running] == [b"asks\n"] * len(keys)
        yield running


def those_that_say(builders, seconds):
    """The processes that have something to say within the time."""
    said, _, _ = select.select([child.stdout for child in builders], [], [], seconds)
    return [child for child in builders if child.stdout in said]


def test_two_processes_that_make_the_same_result_do_the_work_once(store):
    """The second waits for the first, does nothing, and has the same bytes."""
    with builders(store, "key", "key") as (one, other):
        (first,) = those_that_say([one, other], 30)
        second = other if first is one else one
        assert first.stdout.readline() == b"works\n"
        assert those_that_say([second], 0.5) == []
        first.stdin.write(b"go on\n")
        made, found = (child.communicate(timeout=30)[0] for child in (first, second))
        assert made == found
        assert made.split()[2] == b"%d" % first.pid
        assert (first.returncode, second.returncode) == (0, 0)
    assert len(list((store.root / "step").iterdir())) == 1


def test_two_processes_that_make_different_results_work_at_the_same_time(store):
    with builders(store, "key", "other") as both:
        assert [child.stdout.readline() for child in both] == [b"works\n"] * 2
        for child in both:
            child.stdin.write(b"go on\n")
        said = [child.communicate(timeout=30)[0].split() for child in both]
        assert [(key, int(pid)) for key, _, pid in said] == [
            (b"key", both[0].pid),
            (b"other", both[1].pid),
        ]
    assert store.get("step", "key").digests != store.get("step", "other").digests


def test_a_process_that_waits_goes_on_when_the_one_that_works_is_killed(store):
    with builders(store, "key", "key") as (one, other):
        (first,) = those_that_say([one, other], 30)
        second = other if first is one else one
        assert first.stdout.readline() == b"works\n"
        first.kill()
        first.wait()
        assert second.stdout.readline() == b"works\n"
        made, _ = second.communicate(b"go on\n", timeout=30)
        assert made.split()[2] == b"%d" % second.pid
