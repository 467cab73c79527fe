"""The store publishes whole results only, and trusts none whose bytes changed."""

import errno
import os
import re
import resource
import select
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager

import pytest

from forge.core.errors import StoreError
from forge.core.store import CANNOT_LINK, Store, link, stamp

KILLED = """
import sys, time
from pathlib import Path
from forge.core.store import Store
def work(out):
    (out / "half").write_bytes(b"x")
    print("working", flush=True)
    time.sleep(60)
Store(Path(sys.argv[1])).make("step", "key", work, {})
"""
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


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def make(store, content=b"data"):
    return store.make("step", "key", lambda out: (out / "file").write_bytes(content) and None, {})


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


def test_changed_bytes_are_dropped(store):
    """Results share their bytes with dist/, where somebody may edit them."""
    result = make(store)
    (result.files / "file").write_bytes(b"edit")
    assert store.get("step", "key") is None
    assert make(store).digests == result.digests


def test_changed_bytes_under_the_same_size(store):
    result = make(store)
    (result.files / "file").write_bytes(b"dat!")
    assert store.get("step", "key") is None


def test_touched_but_equal_bytes_are_kept(store):
    result = make(store)
    os.utime(result.files / "file", (1, 1))
    assert store.get("step", "key").digests == result.digests


def test_record_is_a_document(store):
    """Read as it was written; a touched file changes its stamp in it, and nothing else."""
    facts = {"parameters": {"a": [1, None]}, "needs": {"b": {"c": "0" * 64}}, "code": "1" * 64}
    made = store.make("step", "key", lambda out: (out / "file").write_bytes(b"x") and None, facts)
    path = made.files.parent / "record.json"
    assert store.get("step", "key").record == made.record
    assert path.read_bytes() == made.record.encoded()
    os.utime(made.files / "file", (1, 1))
    again = store.get("step", "key").record
    assert again.outputs["file"].stamp == "1:1000000000"
    assert again.model_copy(update={"outputs": made.record.outputs}) == made.record
    assert path.read_bytes() == again.encoded()


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b'{"', b'{"unknown":1,"', "unknown: Extra inputs are not permitted"),
        (b'{"', b'{"key":"x","', "the key 'key' stands twice"),
        (b'"seconds":', b'"minutes":', "seconds: Field required"),
        (b"}", b"", "is no record of a result"),
    ],
)
def test_record_of_another_form(store, old, new, reason):
    path = make(store).files.parent / "record.json"
    path.write_bytes(path.read_bytes().replace(old, new, 1))
    with pytest.raises(StoreError, match="record.json: is no record of a result: .*Remove ") as e:
        store.get("step", "key")
    assert reason in str(e.value)


def test_record_of_another_result(store):
    """A record that was copied or edited does not stand for what it is not."""
    path = make(store).files.parent / "record.json"
    path.write_bytes(path.read_bytes().replace(b'"key":"key"', b'"key":"other"'))
    with pytest.raises(StoreError, match=r"is the record of 'step' under other.*Remove "):
        store.get("step", "key")


def test_missing_file_is_noticed(store):
    (make(store).files / "file").unlink()
    assert store.get("step", "key") is None


def test_killed_work_is_made_anew(store):
    """Kill -9 in the middle: nothing is published, and the next run finishes."""
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(store.root)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout.readline() == "working\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert store.get("step", "key") is None
    assert (make(store).files / "file").read_bytes() == b"data"
    assert sorted(path.name for path in make_listing(store)) == ["file"]


def make_listing(store):
    return store.get("step", "key").files.iterdir()


def test_full_disk(store):
    """The message says that nothing was published; with room again, the same call succeeds."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(StoreError, match=r"step: cannot write .* Nothing was published"):
            make(store, bytes(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert store.get("step", "key") is None
    assert make(store, bytes(5000)).files.is_dir()


def test_digest_follows_links_to_the_bytes(store, tmp_path):
    target = tmp_path / "big"
    target.write_bytes(b"big")
    store.make("step", "key", lambda out: (out / "file").symlink_to(target), {})
    assert store.get("step", "key") is not None
    time.sleep(0.01)
    target.write_bytes(b"new")
    assert store.get("step", "key") is None


def test_link_shares_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"x")
    link(tmp_path / "a", tmp_path / "deep" / "b")
    assert (tmp_path / "deep" / "b").samefile(tmp_path / "a")


def refuse_links(monkeypatch, code):
    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refuse)


@pytest.mark.parametrize("code", [None, *sorted(CANNOT_LINK)])
def test_link_never_writes_into_a_file_that_is_there(tmp_path, monkeypatch, code):
    """Not even by a copy, which would reach every other name of that file's bytes."""
    (tmp_path / "a").write_bytes(b"bytes of a")
    (tmp_path / "b").write_bytes(b"bytes of b")
    link(tmp_path / "a", tmp_path / "target")
    if code is not None:
        refuse_links(monkeypatch, code)
    with pytest.raises(FileExistsError):
        link(tmp_path / "b", tmp_path / "target")
    assert (tmp_path / "a").read_bytes() == b"bytes of a"
    assert (tmp_path / "b").read_bytes() == b"bytes of b"
    assert (tmp_path / "target").samefile(tmp_path / "a")


@pytest.mark.parametrize("name", ["EXDEV", "EPERM", "EMLINK", "ENOTSUP", "EOPNOTSUPP"])
def test_where_nothing_can_be_linked_it_is_copied(tmp_path, monkeypatch, name):
    """With its time, by which the store and a published folder know it again."""
    (tmp_path / "a").write_bytes(b"x")
    os.utime(tmp_path / "a", (1, 1))
    refuse_links(monkeypatch, getattr(errno, name))
    link(tmp_path / "a", tmp_path / "deep" / "b")
    assert not (tmp_path / "deep" / "b").samefile(tmp_path / "a")
    assert (tmp_path / "deep" / "b").read_bytes() == b"x"
    assert stamp(tmp_path / "deep" / "b") == stamp(tmp_path / "a")


@pytest.mark.parametrize("name", ["ENOSPC", "EIO", "EACCES", "EROFS", "EDQUOT", "ENOENT"])
def test_any_other_refusal_of_a_link_is_told(tmp_path, monkeypatch, name):
    (tmp_path / "a").write_bytes(b"x")
    code = getattr(errno, name)
    refuse_links(monkeypatch, code)
    with pytest.raises(OSError, match=re.escape(os.strerror(code))) as refused:
        link(tmp_path / "a", tmp_path / "b")
    assert refused.value.errno == code
    assert not (tmp_path / "b").exists()


def test_a_copy_that_breaks_off_leaves_nothing(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(bytes(5000))
    refuse_links(monkeypatch, errno.EXDEV)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            link(tmp_path / "a", tmp_path / "b")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


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
