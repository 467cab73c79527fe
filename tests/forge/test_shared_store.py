"""A store of several users: what one may not remove stays, is told, and stops nobody else."""

import json
import os
import shutil
import tempfile
import time
from pathlib import Path

import pytest

from forge.core import console
from forge.core.errors import FileSystemError, HallmarkError, StoreError
from forge.core.store import Store
from forge.storekeeping import fsck, gc

STRANGER = 65534
LONG_AGO = time.time() - 90 * 86400


@pytest.fixture
def store():
    """Where every user of this machine gets to, which pytest's folders are not."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Store(Path(folder) / "store")
        for path in (Path(folder), *Path(folder).rglob("*")):
            if path.is_dir():
                path.chmod(0o755)


def make(store, key, step="body"):
    """A result that was last used long ago."""
    made = store.make(step, key * 64, lambda out: (out / "file").write_bytes(b"x") and None, {})
    used = made.files.with_name("used")
    os.utime(used, (LONG_AGO, LONG_AGO))
    return made.files.parent


def share(store, *kept):
    """Opens the store to everybody, but for what its owner lets nobody move."""
    for path in (store.root, *store.root.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o666)
    for path in kept:
        path.chmod(0o555)


def as_stranger(work):
    """Runs in a process of another user, where root may start one; what it said, and its error.

    Without root, it is the same user, whom the permissions of what is kept stop as well.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            said, kind, told = [], "", ""
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(STRANGER)
                os.setuid(STRANGER)
            console.say = said.append
            try:
                work()
            except HallmarkError as error:
                kind, told = type(error).__name__, str(error)
            os.write(writer, json.dumps([said, kind, told]).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        answer = file.read()
    os.waitpid(child, 0)
    return json.loads(answer)


def test_gc_goes_on_after_what_is_another_users(store):
    """Of results, of what was set aside and of rebuilds: the others go, and the exit code is 17."""
    theirs, ours = make(store, "a"), make(store, "b")
    places = [store.root / name for name in ("aside/a", "aside/b", "reproduce/a", "reproduce/b")]
    for place in places:
        (place / "deep").mkdir(parents=True)
    share(store, theirs, places[0], places[2])
    said, kind, told = as_stranger(
        lambda: gc.gc(store, days=1, calibrations=True, aside=True, confirm=True)
    )
    assert kind == FileSystemError.__name__
    assert "3 results or leftovers could not be removed, each of which is named above" in told
    assert [path.exists() for path in (theirs, ours, *places)] == [
        True, False, True, False, True, False,
    ]  # fmt: skip
    for place in (theirs.name[:12], places[0], places[2]):
        assert any(str(place) in line and "Permission denied" in line for line in said), place
    assert any("1 of 2 results and 2 leftovers removed" in line for line in said), said


def test_fsck_counts_what_is_damaged_and_may_not_be_moved(store):
    """Once by its bytes, once by its record; the damaged one of one's own leaves its place."""
    theirs, record, ours = make(store, "a"), make(store, "b"), make(store, "c")
    for folder in (theirs, ours):
        (folder / "files" / "file").write_bytes(b"y")
    (record / "record.json").write_text("{", encoding="utf-8")
    share(store, theirs, record)
    said, kind, told = as_stranger(lambda: fsck.fsck(store))
    assert kind == StoreError.__name__
    assert "3 of 3 results were damaged: 2 left in place, 1 removed" in told
    assert "its owner can move it" in told
    assert [path.exists() for path in (theirs, record, ours)] == [True, True, False]
    for key in "ab":
        assert any(f"body {key * 12}: " in line and "Permission denied" in line for line in said)


def test_a_result_of_another_user_whose_times_moved(store):
    """As by a copy of the store: it is hashed, and used, though its record cannot be renewed."""
    theirs = make(store, "a")
    os.utime(theirs / "files" / "file")
    share(store, theirs)
    found = []

    def use():
        found.append(store.get("body", "a" * 64))
        assert found[0] is not None

    assert as_stranger(use) == [[], "", ""]
    assert theirs.exists()


def test_gc_sees_what_the_build_of_another_user_has(store, tmp_path):
    """Its ledger can be read. Where it cannot be, nothing is removed."""
    theirs = make(store, "a")
    (tmp_path / "ledger.json").write_text("{}", encoding="utf-8")
    with store.scratch("ledger") as folder:
        shutil.copy(tmp_path / "ledger.json", folder / "ledger.json")
        share(store)
        # The owner himself always gets to it.
        for mode in (0o755, 0o700)[: 2 if os.geteuid() == 0 else 1]:
            folder.chmod(mode)
            _, _, told = as_stranger(lambda: gc.gc(store, days=1, calibrations=True, confirm=True))
            assert "is the ledger of a build that runs" in told
    assert theirs.exists()


def test_a_scratch_folder_is_for_the_eyes_of_all_that_the_umask_lets_see_it(store):
    umask = os.umask(0o022)
    try:
        with store.scratch("ledger") as folder:
            modes = [oct(path.stat().st_mode & 0o777) for path in (folder.parent, folder)]
    finally:
        os.umask(umask)
    assert modes == ["0o755", "0o755"]
