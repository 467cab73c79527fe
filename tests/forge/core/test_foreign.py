"""A folder that others made: what is opened is what is read, and nothing keeps a reader waiting."""

import errno
import os
import resource

import pytest

from forge.core import foreign, portable
from forge.core.errors import ReleaseError

COMMIT = "0123456789abcdef" * 2 + "01234567"
BLOB = "ab" * 32


def look(path):
    with foreign.opened(path):
        pass


@pytest.fixture
def folder(tmp_path):
    """Two files, one of them in a folder."""
    (tmp_path / "f/in").mkdir(parents=True)
    (tmp_path / "f/a").write_text("a", encoding="utf-8")
    (tmp_path / "f/in/b").write_text("b" * 9, encoding="utf-8")
    return tmp_path / "f"


def test_files_are_read_by_their_descriptors(folder):
    with foreign.opened(folder) as found:
        assert [*found.files] == ["a", "in/b"]
        (folder / "a").rename(folder / "c")
        (folder / "a").write_text("another", encoding="utf-8")
        assert found.files["a"].read(10) == b"a"


@pytest.mark.parametrize("text", ["", "bb", "b" * 10, "c" * 9])
def test_a_file_that_changes_is_an_error(folder, text):
    """Also where its size stays what it was."""
    with foreign.opened(folder) as found:
        (folder / "in/b").write_text(text, encoding="utf-8")
        os.utime(folder / "in/b", (1, 1))
        with pytest.raises(ReleaseError, match="'in/b': changed while it was read"):
            found.files["in/b"].read(100)


def test_a_file_that_grows_while_it_is_read_ends(folder):
    with foreign.opened(folder) as found:

        def grow(_):
            with (folder / "in/b").open("a", encoding="utf-8") as file:
                file.write("more")

        with pytest.raises(ReleaseError, match="changed while it was read"):
            found.files["in/b"].pour(grow)


def test_a_file_that_vanished_is_still_read(folder):
    """It was there when all was opened; whoever removes it does not change it."""
    with foreign.opened(folder) as found:
        (folder / "a").unlink()
        assert found.files["a"].read(1) == b"a"


def test_more_than_is_read_of_it(folder):
    with (
        foreign.opened(folder) as found,
        pytest.raises(ReleaseError, match="'in/b': has 9 bytes; of such a file, at most 8"),
    ):
        found.files["in/b"].read(8)


@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES, errno.ESTALE, errno.ENOMEM, 9999])
def test_whatever_the_system_says_is_one_line(folder, monkeypatch, code):
    real = os.open

    def refuse(path, *args, **kwargs):
        if path == "b":
            raise OSError(code, os.strerror(code))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(ReleaseError, match=r"'in/b': cannot be read \("), foreign.opened(folder):
        pass


def test_more_files_than_a_process_may_open(folder, monkeypatch):
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    monkeypatch.setattr(foreign, "_allow", lambda _: None)
    for number in range(200):
        (folder / f"{number}").touch()
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, limits[1]))
        with pytest.raises(ReleaseError, match=r"raise the limit, as with `ulimit -n 2100`"):
            look(folder)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_single_file(tmp_path):
    path = tmp_path / "one"
    with pytest.raises(ReleaseError, match="is not there"):
        foreign.read(path, 10)
    path.write_bytes(b"x" * 11)
    with pytest.raises(ReleaseError, match="has 11 bytes"):
        foreign.read(path, 10)
    assert foreign.read(path, 11) == b"x" * 11
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", ".", "/dev/zero", "\0", "n" * 300):
        with pytest.raises(ReleaseError):
            foreign.read(tmp_path / name, 10)


@pytest.fixture
def snapshot(tmp_path):
    """A snapshot of a hub's cache, as huggingface_hub makes it."""
    made = tmp_path / "models--a--b/snapshots" / COMMIT
    (made / "in").mkdir(parents=True)
    (tmp_path / "models--a--b/blobs").mkdir()
    (tmp_path / "models--a--b/blobs" / BLOB).write_text("blob", encoding="utf-8")
    (made / "x").symlink_to(f"../../blobs/{BLOB}")
    (made / "in/y").symlink_to(f"../../../blobs/{BLOB}")
    return made


def test_snapshot_of_a_hub(snapshot):
    with foreign.opened(snapshot) as found:
        assert [file.read(9) for file in found.files.values()] == [b"blob", b"blob"]
        assert found.notes == ("2 files lie in the hub cache's blobs",)


@pytest.mark.parametrize(
    "target",
    [
        f"../../blobs/../blobs/{BLOB}",
        f"../../blobs//{BLOB}",
        f"../../../models--a--b/blobs/{BLOB}",
        f"../../blobs/{BLOB.upper()}",
        f"../../blobs/{BLOB}/.",
        "../../blobs/x",
        "../../blobs/..",
        f"../../../blobs/{BLOB}",
    ],
)
def test_other_links_of_a_snapshot(snapshot, target):
    (snapshot / "x").unlink()
    (snapshot / "x").symlink_to(target)
    with pytest.raises(ReleaseError, match="'x': is a symbolic link"):
        look(snapshot)


def test_a_blob_is_not_followed(snapshot):
    blob = snapshot.parents[1] / "blobs" / BLOB
    blob.unlink()
    blob.symlink_to("/etc/passwd")
    with pytest.raises(ReleaseError, match="'in/y': cannot be read"):
        look(snapshot)
    blob.unlink()
    os.mkfifo(blob)
    with pytest.raises(ReleaseError, match="'in/y': is a pipe"):
        look(snapshot)
    blob.unlink()
    with pytest.raises(ReleaseError, match="'in/y': is not there"):
        look(snapshot)


def test_blobs_that_lie_elsewhere(snapshot, tmp_path):
    (snapshot.parents[1] / "blobs").rename(tmp_path / "blobs")
    (snapshot.parents[1] / "blobs").symlink_to(tmp_path / "blobs")
    with pytest.raises(ReleaseError, match="cannot be read"):
        look(snapshot)


@pytest.mark.parametrize(
    "name",
    ["config.json", ".gitattributes", "a/b c/d.e", "caf\u00e9.json", "\u65e5\u672c\u8a9e.txt",
     "\ud55c\uae00", "console.json", "a-b_c+d=e@f#g%h(1)", "model-00001-of-00002.safetensors",
     "LICENSE", "README.md", "Q8_0.gguf", "COMPANY", "\U0001f600.png"],
)  # fmt: skip
def test_names_that_are_portable(name):
    portable.check_name(name)
