"""What a store has beside its results: what nobody holds goes, and nothing else."""

import errno
import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from mounting import mount, with_mounted
from stored import KILLED, left, make

from forge.core import console
from forge.core.errors import StoreError


@pytest.fixture
def mine(tmp_path):
    """A user's folder that is mounted in the store."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "data").write_bytes(b"mine")
    yield folder
    assert (folder / "data").read_bytes() == b"mine"


def test_what_is_mounted_in_a_result_is_not_removed_with_it(store, mine):
    """The result is made anew, and what cannot go is named by each that removes something."""
    made, said = make(store), []

    def remove():
        console.say = said.append
        assert store.get("step", "key") is None
        make(store)
        store.clear()
        (trashed,) = (store.root / "trash").iterdir()
        assert len(said) == 3
        assert set(said) == {
            f"{trashed}: cannot be removed: {trashed}/files: is a mount point in {trashed}, and "
            "what is mounted there would be removed with that. Unmount it"
        }

    with_mounted({made.files: mine}, remove)
    assert store.get("step", "key") is not None
    store.clear()
    assert left(store) == []


def test_what_is_mounted_in_a_result_that_cannot_be_renamed(store, mine, monkeypatch):
    """As in a lower layer of an image: the result stays. Injected into `Path.rename`."""
    digests, files = make(store).digests, store.root / "step/key/files"

    def elsewhere(path, other):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(path), None, str(other))

    monkeypatch.setattr(Path, "rename", elsewhere)

    def refuse():
        with pytest.raises(StoreError, match=f"{files}: is a mount point in"):
            store.discard("step", "key", unless=lambda: False)

    with_mounted({files: mine}, refuse)
    assert store.get("step", "key").digests == digests


def test_what_is_mounted_in_a_folder_of_work_is_not_removed_with_it(store, mine):
    def work():
        with store.scratch("step") as folder:
            (folder / "data").mkdir()
            mount(mine, folder / "data")

    with_mounted({}, work)
    assert len(left(store)) == 1
    make(store)
    assert left(store) == []


def test_the_next_that_works_removes_what_the_killed_left(store):
    """Of other keys, of versions that had no locks, and of a removal; not that of the living.

    Real processes, one of them killed outright.
    """
    with ExitStack() as stack:
        children = []
        for _ in range(2):
            child = subprocess.Popen(
                [sys.executable, "-c", KILLED, str(store.root)],
                stdout=subprocess.PIPE,
                encoding="utf-8",
            )
            stack.enter_context(child)
            stack.callback(child.kill)
            assert child.stdout.readline() == "working\n"
            children.append(child)
        (store.root / "tmp" / "quantize-old").mkdir()
        (store.root / "tmp" / "file").touch()
        (store.root / "trash" / "body").mkdir()
        (store.root / "locks" / "step-old.lock").write_text("process 1 on a machine", "utf-8")
        children[0].kill()
        children[0].wait()
        store.make("step", "other", lambda _: None, {})
        assert len(list((store.root / "tmp").iterdir())) == 1
        assert list((store.root / "trash").iterdir()) == []
        assert list((store.root / "locks").iterdir()) == []
        children[1].kill()
        children[1].wait()
        store.make("step", "third", lambda _: None, {})
        assert left(store) == []


HASTY = """
import sys
from pathlib import Path
from forge.core.store import Store
store, mine = Store(Path(sys.argv[1])), sys.argv[2]
for number in range(40):
    key = f"{number}-{mine}"
    with store.lock("step", key):
        store.make("step", key, lambda out: (out / "file").write_text(key) and None, {})
        (store.root / "step" / key / "files" / "file").write_text("changed")
        assert store.get("step", key) is None
        store.make("step", key, lambda out: (out / "file").write_text(key) and None, {})
"""


def test_many_at_once_do_not_sweep_each_other(store):
    """Real processes, each of which begins, ends and removes all the time."""
    running = [
        subprocess.Popen([sys.executable, "-c", HASTY, store.root, str(number)])
        for number in range(4)
    ]
    assert [child.wait(timeout=50) for child in running] == [0] * 4
    for number in range(40):
        for mine in range(4):
            file = store.get("step", f"{number}-{mine}").files / "file"
            assert file.read_text(encoding="utf-8") == f"{number}-{mine}"
    make(store)
    assert left(store) == []


def test_what_this_process_still_uses_stays(store):
    """A build keeps its ledger in one such folder while its steps work in others."""
    with store.scratch("ledger") as folder:
        (folder / "ledger.json").touch()
        make(store)
        assert (folder / "ledger.json").is_file()
    assert left(store) == []


REMOVES = """
import os, shutil, signal, sys
from pathlib import Path
from forge.core.store import Store
def killed(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
shutil.rmtree = killed
Store(Path(sys.argv[1])).get("step", "key")
"""


def test_killed_while_a_changed_result_is_removed(store):
    """A real kill, at the moment at which the first file would go."""
    (make(store).files / "file").write_bytes(b"edit")
    done = subprocess.run([sys.executable, "-c", REMOVES, str(store.root)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert store.get("step", "key") is None
    assert (make(store).files / "file").read_bytes() == b"data"
    assert left(store) == []
    assert not (store.root / "aside").exists()
