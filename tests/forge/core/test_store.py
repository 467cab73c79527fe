"""The store publishes whole results only, and trusts none whose bytes changed."""

import os
import resource
import signal
import subprocess
import sys
import time

import pytest

from forge.core.errors import StoreError
from forge.core.store import Store, link

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
