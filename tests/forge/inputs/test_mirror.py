"""A mirror repeats the hub's names, vouches for every file, and is never quietly left aside."""

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from forge.core.errors import FetchError
from forge.inputs import mirror
from forge.recipes.sources import Dataset, Source

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SOURCE = Source(repo="acme/model", revision=COMMIT)
TEXT = Dataset(
    repo="acme/text", revision=COMMIT, config="raw", split="test", file="t.parquet", column="text"
)
FILES = {"config.json": b"{}", "model.safetensors": b"weights" * 1000, "deep/a_file": b"x"}


def list_sums(folder: Path) -> None:
    """Runs the command that the error message gives."""
    subprocess.run(["bash", "-c", mirror.SUMS_COMMAND], cwd=folder, check=True)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "acme" / "model" / COMMIT
    for name, data in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    list_sums(folder)
    return folder


def find(root: Path, *globs: str):
    return mirror.repository(root, SOURCE, globs or ("*",))


def test_the_named_files_are_taken(tmp_path, folder):
    """What is taken is what the globs match, with the digests of its bytes."""
    origin = find(tmp_path, "*.json", "deep/*")
    files = origin.take()

    assert origin.kind == "mirror"
    assert origin.uri == f"pkg:huggingface/acme/model@{COMMIT}"
    assert sorted(files) == ["config.json", "deep/a_file"]
    assert files["config.json"].path == folder / "config.json"
    assert files["config.json"].sha256 == hashlib.sha256(b"{}").hexdigest()


def test_a_repository_that_is_not_there(tmp_path):
    """The caller may look elsewhere for what a mirror does not have."""
    assert find(tmp_path) is None
    assert mirror.joined_text(tmp_path, TEXT) is None


def test_links_to_other_places_are_followed(tmp_path, folder):
    """A mirror may link to files that lie elsewhere; its own command lists them."""
    (tmp_path / "elsewhere").write_bytes(b"{}")
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to(tmp_path / "elsewhere")
    list_sums(folder)

    assert find(tmp_path).take()["config.json"].bytes == 2


def test_without_sums_nothing_is_taken(tmp_path, folder):
    """The error gives the command that makes them."""
    (folder / mirror.SUMS).unlink()
    with pytest.raises(FetchError, match="sort | xargs sha256sum > SHA256SUMS"):
        find(tmp_path)


def test_a_corrupt_file_is_refused(tmp_path, folder):
    """Both digests are named; the file is not taken from elsewhere."""
    (folder / "config.json").write_bytes(b"[]")
    with pytest.raises(FetchError, match=r"config\.json: has sha256") as caught:
        find(tmp_path).take()
    for data in (b"[]", b"{}"):
        assert hashlib.sha256(data).hexdigest() in str(caught.value)


def test_a_file_that_is_not_listed_is_refused(tmp_path, folder):
    (folder / "extra.json").write_bytes(b"{}")
    with pytest.raises(FetchError, match=r"extra\.json: is not listed in"):
        find(tmp_path)


def test_a_listed_file_that_is_missing_is_refused(tmp_path, folder):
    (folder / "config.json").unlink()
    with pytest.raises(FetchError, match=r"config\.json: is missing, but listed in"):
        find(tmp_path)


@pytest.mark.parametrize("path", ["../escape", "a/../../b", "/etc/passwd", ""])
def test_a_listing_that_leads_out_is_refused(tmp_path, folder, path):
    sums = folder / mirror.SUMS
    sums.write_text(sums.read_text(encoding="utf-8") + f"{'0' * 64}  {path}\n", encoding="utf-8")
    with pytest.raises(FetchError, match="SHA256SUMS, line 4"):
        find(tmp_path)


def test_names_that_lead_out_are_refused(tmp_path):
    """`..` fits the pattern of a repository's and of a split's name; it is no name of a folder."""
    outside = Source(repo="../..", revision=COMMIT)
    with pytest.raises(FetchError, match=r"'\.\.' is not a valid name"):
        mirror.repository(tmp_path, outside, ("*",))
    with pytest.raises(FetchError, match=r"'\.\./\.\./etc' is not a valid name"):
        mirror.joined_text(tmp_path, TEXT.model_copy(update={"config": "../../etc"}))


def test_a_mirror_that_is_no_folder_is_refused(tmp_path):
    with pytest.raises(FetchError, match="missing is no folder") as told:
        find(tmp_path / "missing")
    assert told.value.remedy == "no-mirror"


def test_a_joined_text(tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "test.txt").write_bytes(b"one\ntwo\n")
    origin = mirror.joined_text(tmp_path, TEXT)

    assert origin.joined
    assert origin.name == "raw test"
    assert origin.take()["raw/test.txt"].bytes == 8


def test_a_local_folder_is_taken_as_it_is(tmp_path):
    (tmp_path / "config.json").write_bytes(b"{}")
    origin = mirror.local(tmp_path, ("*.json", "*.safetensors"))

    assert list(origin.take()) == ["config.json"]
    assert str(tmp_path) not in repr((origin.uri, origin.key, origin.name))


def test_a_local_folder_without_any_of_it_is_refused(tmp_path):
    with pytest.raises(FetchError, match="holds none of the files"):
        mirror.local(tmp_path, ("*.json",))
    with pytest.raises(FileNotFoundError):
        mirror.local(tmp_path / "missing", ("*.json",))


def test_pickles_are_refused(tmp_path):
    (tmp_path / "a.json").write_bytes(b"{}")
    (tmp_path / "Weights.BIN").write_bytes(b"")
    with pytest.raises(FetchError, match=r"'\*' takes Weights\.BIN"):
        mirror.local(tmp_path, ("*",))


@pytest.mark.parametrize("data", [b"[]", b"longer"])
def test_a_file_that_changed_since_is_refused(tmp_path, data):
    """By its size, or by its modification time if the size is the same."""
    file = tmp_path / "config.json"
    file.write_bytes(b"{}")
    origin = mirror.local(tmp_path, ("*.json",))
    file.write_bytes(data)
    os.utime(file, ns=(1, 1))

    with pytest.raises(FetchError, match=r"config\.json: changed since this command began"):
        origin.take()


def test_what_the_system_says_of_a_file_is_told_as_that(tmp_path):
    (tmp_path / "config.json").write_bytes(b"{}")
    origin = mirror.local(tmp_path, ("*.json",))
    (tmp_path / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        origin.take()
