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
from pathlib import Path

import pytest
from mounting import mount, with_mounted

from forge.core import console
from forge.core.errors import FileSystemError, StoreError
from forge.core.store import Store, record_of, stamp

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


def set_aside(store):
    return sorted((store.root / "aside").iterdir())


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b'{"', b'{"unknown":1,"', "unknown: Extra inputs are not permitted"),
        (b'{"', b'{"key":"x","', "the key 'key' stands twice"),
        (b'"seconds":', b'"minutes":', "seconds: Field required"),
        (b"}", b"", "is no record of a result"),
        (b'"key":"key"', b'"key":"other"', "is the record of 'step' under other"),
    ],
)
def test_a_record_that_does_not_stand_for_its_result(store, monkeypatch, old, new, reason):
    """It is set aside with a line that says so, and the result is made again."""
    path = make(store).files.parent / "record.json"
    path.write_bytes(edited := path.read_bytes().replace(old, new, 1))
    said: list[str] = []
    monkeypatch.setattr(console, "say", said.append)
    assert store.get("step", "key") is None
    (aside,) = set_aside(store)
    (line,) = said
    assert reason in line
    assert line.endswith(f"It is set aside as {aside}, and the result is made anew.")
    assert (aside / "record.json").read_bytes() == edited
    assert (make(store).files / "file").read_bytes() == b"data"
    assert store.get("step", "key") is not None


def test_a_result_without_its_record(store):
    """As a kill has left it that came while earlier versions removed a result in its place."""
    (make(store).files.parent / "record.json").unlink()
    assert store.get("step", "key") is None
    assert make(store).files.is_dir()
    assert len(set_aside(store)) == 1


@pytest.mark.parametrize("cut", [0, 1, 100])
def test_a_cut_record(store, cut):
    path = make(store).files.parent / "record.json"
    os.truncate(path, cut)
    assert store.get("step", "key") is None
    assert make(store).files.is_dir()


def test_a_file_in_a_results_place(store):
    (store.root / "step").mkdir(parents=True)
    (store.root / "step" / "key").write_text("x", encoding="utf-8")
    assert store.get("step", "key") is None
    assert make(store).files.is_dir()


@pytest.mark.parametrize("name", ["EACCES", "EMFILE"])
def test_a_record_that_may_not_be_read_now_stays(store, monkeypatch, name):
    """It says nothing of the result. Injected into `os.open`."""
    path = make(store).files.parent / "record.json"
    code = getattr(errno, name)
    with monkeypatch.context() as patched:
        patched.setattr(os, "open", refusing_to_read(path, code))
        with pytest.raises(StoreError, match=re.escape(f"{path}: {os.strerror(code)}")):
            store.get("step", "key")
    assert store.get("step", "key") is not None


def refusing_to_read(refused, code):
    """`os.open`, which the system refuses for one file."""
    real = os.open

    def opened(path, *arguments, **named):
        if Path(path) == refused:
            raise OSError(code, os.strerror(code), str(path))
        return real(path, *arguments, **named)

    return opened


def test_a_record_that_is_a_pipe(store):
    """Nobody writes to it, so whoever opened it as a file would wait for ever."""
    path = make(store).files.parent / "record.json"
    path.unlink()
    os.mkfifo(path)
    assert record_of(path.parent) is None
    assert store.get("step", "key") is None
    assert len(set_aside(store)) == 1
    assert make(store).files.is_dir()


@pytest.mark.parametrize("kind", ["pipe", "link", "link to nowhere", "folder"])
def test_a_result_that_nobody_can_hold(store, monkeypatch, kind):
    """Somebody put something else in its lock file's place. It is set aside and made again."""
    used = make(store).files.with_name("used")
    mine = store.root / "mine"
    mine.touch()
    used.unlink()
    if kind == "pipe":
        os.mkfifo(used)
    elif kind == "folder":
        used.mkdir()
    else:
        used.symlink_to(mine if kind == "link" else "nowhere")
    said: list[str] = []
    monkeypatch.setattr(console, "say", said.append)
    assert store.get("step", "key") is None
    (aside,) = set_aside(store)
    assert said == [
        f"{used}: is no regular file. It is set aside as {aside}, and the result is made anew."
    ]
    assert mine.is_file()
    assert make(store).use is not None
    assert store.get("step", "key") is not None


def test_missing_file_is_noticed(store):
    (make(store).files / "file").unlink()
    assert store.get("step", "key") is None
    assert not (store.root / "aside").exists()


@pytest.fixture
def said(monkeypatch):
    lines = []
    monkeypatch.setattr(console, "say", lines.append)
    return lines


def test_a_record_as_large_as_no_memory_is(store, said):
    """300 GB, which here are one hole."""
    path = make(store).files.parent / "record.json"
    os.truncate(path, 300 * 10**9)
    assert record_of(path.parent) is None
    assert store.get("step", "key") is None
    assert f"{path}: is no record of a result: has more than 16777216 bytes. It is set" in said[0]
    assert make(store).files.is_dir()
    assert store.get("step", "key") is not None


def test_a_touched_file_that_the_disk_does_not_give(store, said):
    """A real EIO. It may be whole, so it is set aside; the next one is made."""
    file = make(store, b"").files / "file"
    file.unlink()
    file.symlink_to("/proc/self/mem")
    assert store.get("step", "key") is None
    (aside,) = set_aside(store)
    assert said == [
        f"{file}: Input/output error. It is set aside as {aside}, and the result is made anew."
    ]
    assert make(store).files.is_dir()
    assert store.get("step", "key") is not None


def refusing_to_tell(refused, code):
    """`os.stat`, which the system refuses for one file."""
    real = os.stat

    def told(path, *arguments, **named):
        if path == refused:
            raise OSError(code, os.strerror(code), str(path))
        return real(path, *arguments, **named)

    return told


@pytest.mark.parametrize("name", ["EIO", "EACCES", "ESTALE", "ENOMEM"])
def test_a_file_that_the_system_does_not_tell_of(store, monkeypatch, said, name):
    """It is there for all that anybody knows. Of EIO nothing else is to come. Injected."""
    file, code = make(store).files / "file", getattr(errno, name)
    with monkeypatch.context() as patched:
        patched.setattr(os, "stat", refusing_to_tell(file, code))
        with pytest.raises(OSError, match=os.strerror(code)):
            stamp(file)
        if name == "EIO":
            assert store.get("step", "key") is None
            assert f"{file}: Input/output error. It is set aside as " in said[0]
        else:
            with pytest.raises(StoreError, match=re.escape(f"{file}: {os.strerror(code)}")):
                store.get("step", "key")
    there = store.root / "step/key" if name != "EIO" else set_aside(store)[0]
    assert (there / "files/file").read_bytes() == b"data"
    assert stamp(file.with_name("none")) is None
    assert stamp(there / "files/file/below") is None


def with_outputs(result, outputs):
    """Edits a record, as whoever wants a result to be trusted unread."""
    path = result.files.with_name("record.json")
    path.write_bytes(result.record.model_copy(update={"outputs": outputs}).encoded())


def test_a_record_that_lists_nothing(store, said):
    """Its file would be attested unread, or left out."""
    with_outputs(made := make(store), {})
    assert store.get("step", "key") is None
    assert f"{made.files}/file: is not in the record of the result that it lies in. It" in said[0]
    assert len(set_aside(store)) == 1
    assert make(store).digests


@pytest.mark.parametrize("kind", ["file", "link to nowhere", "pipe", "deep"])
def test_a_file_in_a_result_that_its_record_does_not_list(store, kind, said):
    other = make(store).files / "other"
    if kind == "file":
        other.touch()
    elif kind == "pipe":
        os.mkfifo(other)
    elif kind == "deep":
        other.mkdir()
        other /= "file"
        other.touch()
    else:
        other.symlink_to("nowhere")
    assert store.get("step", "key") is None
    assert said[0].startswith(f"{other}: is not in the record")


def test_a_result_without_what_its_step_leaves(store, said):
    """Neither the file nor a line of it in the record: nothing else shows that it is not whole."""
    made = make(store)
    (made.files / "file").unlink()
    with_outputs(made, {})
    assert store.get("step", "key", lambda record: [record.step]) is None
    assert said[0].startswith(f"{made.files.with_name('record.json')}: does not list step, which")
    make(store)
    assert store.get("step", "key", lambda _: ["file"]) is not None


def test_a_folder_of_a_result_that_cannot_be_read(store, monkeypatch, said):
    """Injected into `os.scandir`: what may pass is told, and what the disk does not give is not."""
    files, real = make(store).files, os.scandir
    for name in ("EACCES", "EIO"):
        code = getattr(errno, name)

        def refuse(path, code=code):
            if path == files:
                raise OSError(code, os.strerror(code), str(path))
            return real(path)

        with monkeypatch.context() as patched:
            patched.setattr(os, "scandir", refuse)
            if name == "EACCES":
                with pytest.raises(StoreError, match=re.escape(f"{files}: Permission denied")):
                    store.get("step", "key")
            else:
                assert store.get("step", "key") is None
    assert said[0].startswith(f"{files}: Input/output error. It is set aside as ")


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


def left(store):
    """What lies in the folders that are empty when nobody works."""
    folders = (store.root / name for name in ("tmp", "trash"))
    return [path for folder in folders if folder.is_dir() for path in folder.iterdir()]


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


def test_digest_follows_links_to_the_bytes(store, tmp_path):
    target = tmp_path / "big"
    target.write_bytes(b"big")
    store.make("step", "key", lambda out: (out / "file").symlink_to(target), {})
    assert store.get("step", "key") is not None
    time.sleep(0.01)
    target.write_bytes(b"new")
    assert store.get("step", "key") is None


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
