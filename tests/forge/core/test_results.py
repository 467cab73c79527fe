"""A result is trusted only while its record stands for its files."""

import errno
import os
import re
import time
from pathlib import Path

import pytest
from stored import make, set_aside

from forge.core.errors import StoreError
from forge.core.results import record_of, stamp


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
        (b'"key":"key"', b'"key":"other"', "is the record of 'step' under other"),
    ],
)
def test_a_record_that_does_not_stand_for_its_result(store, said, old, new, reason):
    """It is set aside with a line that says so, and the result is made again."""
    path = make(store).files.parent / "record.json"
    path.write_bytes(edited := path.read_bytes().replace(old, new, 1))
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
def test_a_result_that_nobody_can_hold(store, said, kind):
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


def test_digest_follows_links_to_the_bytes(store, tmp_path):
    target = tmp_path / "big"
    target.write_bytes(b"big")
    store.make("step", "key", lambda out: (out / "file").symlink_to(target), {})
    assert store.get("step", "key") is not None
    time.sleep(0.01)
    target.write_bytes(b"new")
    assert store.get("step", "key") is None
