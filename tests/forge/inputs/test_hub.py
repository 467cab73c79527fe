"""Inputs from the hub, through the real huggingface_hub, from a hub on the loopback interface."""

import errno
import hashlib
import json
import os
import re
from pathlib import Path

import pytest
from hub_server import Hub, blob_id, serve
from huggingface_hub import constants

from forge import remedies
from forge.core import files, hub_session
from forge.core.errors import FetchError, FileSystemError
from forge.inputs import hub
from forge.recipes.sources import Checkpoint, Source

REPO = "acme/model"
WEIGHTS = b"weights " * 5000
FILES = {
    "config.json": b'{"a": 1}',
    "model.safetensors": WEIGHTS,
    "nested/extra.json": b"{}",
    "pytorch_model.bin": b"a pickle",
    "modeling.py": b"print('hello')",
}


@pytest.fixture(autouse=True)
def server(monkeypatch: pytest.MonkeyPatch):
    with serve() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


@pytest.fixture
def source(server: Hub) -> Source:
    return pinned(server.add(REPO, FILES))


def pinned(commit: str, *globs: str) -> Checkpoint:
    return Checkpoint(repo=REPO, revision=commit, files=globs or ("*.safetensors", "config.json"))


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def take(source: Checkpoint, cache: Path, *globs: str):
    return hub.take(source, globs or source.files, cache)


def test_files_are_the_commits(source, tmp_path):
    """Exactly the selected files come, each with the sha256 of its bytes."""
    files = take(source, tmp_path)

    assert sorted(files) == ["config.json", "model.safetensors"]
    for name, file in files.items():
        assert FILES[name] == file.path.read_bytes()
        assert sha256(FILES[name]) == file.sha256
        assert len(FILES[name]) == file.bytes


def test_an_old_commit_is_served_as_it_was(server, source, tmp_path):
    """A pin outlives what is pushed on top of it."""
    server.add(REPO, FILES | {"config.json": b"newer"})

    assert take(source, tmp_path)["config.json"].path.read_bytes() == FILES["config.json"]


def test_a_finished_file_is_not_downloaded_again(server, source, tmp_path):
    take(source, tmp_path)
    server.requests.clear()
    take(source, tmp_path)

    assert not [request for request in server.requests if "/api/" not in request]


@pytest.mark.parametrize("by_reset", [False, True])
def test_a_broken_download_goes_on_where_it_broke(server, source, tmp_path, monkeypatch, by_reset):
    """The second request asks for the rest only, and the whole is right."""
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    server.cuts["model.safetensors"] = 10_000
    server.cut_by_reset = by_reset
    files = take(source, tmp_path, "*.safetensors")

    assert files["model.safetensors"].path.read_bytes() == WEIGHTS
    gets = [request for request in server.requests if request.startswith("GET /cdn/")]
    assert len(gets) == 2
    assert gets[1].endswith("bytes=10000-")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_forged_bytes_are_refused(server, source, tmp_path, name):
    """The message names file, digest found and digest pinned; the next run can succeed."""
    digest = sha256 if name.endswith(".safetensors") else blob_id
    server.forged[name] = FILES[name][:-1] + b"!"
    with pytest.raises(FetchError, match=name) as caught:
        take(source, tmp_path)
    assert digest(FILES[name]) in str(caught.value)
    assert digest(server.forged[name]) in str(caught.value)

    server.forged.clear()
    assert take(source, tmp_path)[name].path.read_bytes() == FILES[name]


def test_a_download_that_the_disk_does_not_give(source, tmp_path, monkeypatch):
    """It is set aside once, with its name, and fetched again. The refusal is injected."""
    cache = tmp_path / "store" / "hub"
    blob = take(source, cache)["model.safetensors"].path.resolve()
    real = files.sha256_of

    def refuse(path, *words):
        if path.resolve() == blob:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return real(path, *words)

    with monkeypatch.context() as patched:
        patched.setattr(files, "sha256_of", refuse)
        with pytest.raises(FetchError, match=f"{blob}: Input/output error. The download is set as"):
            take(source, cache)
    (aside,) = (tmp_path / "store" / "aside").iterdir()
    assert aside.name.startswith(f"blobs-{blob.name}-")
    assert aside.read_bytes() == WEIGHTS
    assert take(source, cache)["model.safetensors"].path.read_bytes() == WEIGHTS


def test_an_input_of_the_user_that_the_disk_does_not_give_is_left(tmp_path):
    (tmp_path / "base").write_bytes(WEIGHTS)
    refused = OSError(errno.EIO, os.strerror(errno.EIO), str(tmp_path / "base"))
    with pytest.raises(OSError, match="Input/output error"), hub.readable(tmp_path / "hub"):
        raise refused
    assert (tmp_path / "base").exists()


def test_another_commit_is_refused(server, source, tmp_path):
    server.claimed = "f" * 40
    with pytest.raises(FetchError, match=f"answers with commit {server.claimed}"):
        take(source, tmp_path)


@pytest.mark.parametrize(
    ("refusal", "sentences"),
    [
        ((403, "GatedRepo"), ("behind terms", "Accept its terms at .*/acme/model")),
        ((404, "RepoNotFound"), ("has no such repository, or hides it", "Correct the recipe")),
        ((404, "RevisionNotFound"), ("the pin is wrong", "Correct the recipe's revision")),
        ((401, ""), ("HTTP 401: it does not know this account", "a token that is valid")),
        ((403, ""), ("HTTP 403: this account may not read", "for an account that may read it")),
        ((404, ""), ("HTTP 404: it has nothing there", "Correct the recipe")),
        ((410, ""), ("HTTP 410: it was deleted for good", "mirror that has it")),
        ((451, ""), ("HTTP 451: it is withheld for legal reasons", "mirror that has it")),
        ((418, ""), ("HTTP 418, which no hub does", "Check HF_ENDPOINT")),
    ],
)
def test_a_refusal_names_the_way_out(server, source, tmp_path, refusal, sentences):
    """Each has its own sentence and remedy, and is not asked again."""
    server.refusals[REPO] = refusal
    told, way_out = sentences
    with pytest.raises(FetchError, match=told) as caught:
        take(source, tmp_path)
    assert re.search(way_out, remedies.remedy(caught.value))
    assert len(server.requests) == 1


def test_an_unknown_commit_is_refused(server, tmp_path):
    server.add(REPO, FILES)
    with pytest.raises(FetchError, match="has no such commit"):
        take(pinned("0" * 40), tmp_path)


def test_a_page_in_between_is_told(source, tmp_path, monkeypatch):
    """A proxy's log-in page is no hub."""
    monkeypatch.setattr("huggingface_hub.HfApi.repo_info", lambda *_, **__: json.loads("<html>"))
    with pytest.raises(FetchError, match="does not answer as a hub does"):
        take(source, tmp_path)


@pytest.mark.parametrize("glob", ["*", "*.bin", "*.py"])
def test_pickles_and_code_are_refused(source, tmp_path, glob):
    """A glob that would take one is an error, and nothing is downloaded."""
    with pytest.raises(FetchError, match="never fetched"):
        take(source, tmp_path, glob)
    assert not list(tmp_path.rglob("*.*"))


def test_a_glob_for_nothing_is_refused(source, tmp_path):
    with pytest.raises(FetchError, match=r"has no file 'tokenizer\.json'"):
        take(source, tmp_path, "tokenizer.json")


def test_a_star_stays_in_its_folder(source, tmp_path):
    assert list(take(source, tmp_path, "*.json")) == ["config.json"]


def test_a_disk_that_fills_up_is_told(source, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("huggingface_hub.file_download._chmod_and_move", full)
    full_disk = rf"broke off, .*: No space left .* {tmp_path}\. The disk is full: .*B are free at"
    with pytest.raises(FileSystemError, match=full_disk):
        take(source, tmp_path)


def test_offline_is_told(source, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(FetchError, match="HF_HUB_OFFLINE is set"):
        take(source, tmp_path)


def test_no_hub_is_told(source, tmp_path, monkeypatch):
    monkeypatch.setattr(hub_session, "sleep", lambda _: None)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(FetchError, match="cannot be reached"):
        take(source, tmp_path)


def test_the_probe(source, monkeypatch):
    """It tells whether the commit can be had, and why not, and raises nothing."""
    assert hub.unreachable(source) is None
    assert "does not give it" in hub.unreachable(pinned("0" * 40))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "OfflineModeIsEnabled" in hub.unreachable(source)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(hub_session, "sleep", lambda _: pytest.fail("a probe does not wait"))
    assert "Connection refused" in hub.unreachable(source)


def test_a_dataset_is_asked_for_as_one(server, tmp_path):
    commit = server.add("acme/text", {"a.parquet": b"rows"}, kind="dataset")
    source = Source(repo="acme/text", revision=commit, kind="dataset")

    assert hub.take(source, ["a.parquet"], tmp_path)["a.parquet"].path.read_bytes() == b"rows"
