"""Publishing, against a hub server of our own: signatures last, on the stated parent, resumable."""

import subprocess

import pytest
from hub_server import serve
from huggingface_hub import constants

from forge.core import hub_session
from forge.core.errors import ReleaseError, UploadError
from forge.manifest.names import SIGNATURES
from forge.release import publish

REPO = "someone/result"


@pytest.fixture
def hub(monkeypatch):
    with serve() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # the server speaks LFS
        yield running


@pytest.fixture(autouse=True)
def waits(monkeypatch):
    seconds = []
    monkeypatch.setattr(hub_session, "sleep", seconds.append)
    return seconds


@pytest.fixture
def said(monkeypatch):
    lines = []
    monkeypatch.setattr(publish.console, "say", lines.append)
    return lines


def published(bench, *, confirm=True):
    return publish.upload(bench.folder, REPO, confirm=confirm, rehearsal=True)


def commits(hub):
    return list(hub.repos["model", REPO].values())


def writes(hub):
    return [line for line in hub.requests if not line.startswith(("GET", "HEAD"))]


def release_files(bench):
    return {
        path.relative_to(bench.folder).as_posix(): path.read_bytes()
        for path in bench.folder.rglob("*")
        if path.is_file()
    }


def test_dry_run_sends_nothing(bench, hub, said):
    assert published(bench, confirm=False) is None
    assert writes(hub) == []
    assert said[-1] == "nothing was sent"
    assert f"{REPO}: is not there; it would be made, private" in said
    assert sum(line.startswith("  send") for line in said) == len(release_files(bench))


def test_new_repository_has_the_release(bench, hub):
    commit = published(bench)
    assert hub.repos["model", REPO][commit] == release_files(bench)
    assert hub.messages == ["Release release", "Sign release"]


def test_signatures_come_last(bench, hub):
    """Up to the last commit there is no signature, with it there is nothing else new."""
    published(bench)
    _, content, signed = commits(hub)
    assert not set(SIGNATURES) & content.keys()
    assert signed.keys() - content.keys() == set(SIGNATURES) & release_files(bench).keys()


def test_second_time_sends_nothing(bench, hub):
    first = published(bench)
    hub.requests.clear()
    assert first == published(bench)
    assert writes(hub) == []


def test_upload_that_broke_off_goes_on(bench, hub):
    """The first large file is kept, the second was refused; the next run sends it alone."""
    body, head = (
        publish.hash_files({n: bench / n}, publish.stamps({n: bench / n}))[n].sha256
        for n in ("model-00001-of-00001.safetensors", "model-mtp.safetensors")
    )
    hub.full_for = {head}
    with pytest.raises(UploadError, match="what the hub has is not sent twice"):
        published(bench)
    assert len(commits(hub)) == 1
    hub.full_for = set()
    hub.requests.clear()
    published(bench)
    sent = [line.split()[1] for line in hub.requests if line.startswith("PUT")]
    assert body not in sent
    assert head in sent
    assert commits(hub)[-1] == release_files(bench)


def test_a_large_file_that_is_refused(bench, hub, capfd):
    """The hub's answer is told, on a line of its own: no bar of the library is before it."""
    body = "model-00001-of-00001.safetensors"
    (file,) = publish.hash_files(
        {body: bench / body}, publish.stamps({body: bench / body})
    ).values()
    hub.trouble(f"/lfs/{file.sha256}", 403)
    with pytest.raises(UploadError, match=r"Hub: HTTP 403\). Run it again") as refused:
        published(bench)
    assert refused.value.remedy == "may-write"
    assert "%" not in capfd.readouterr().err


def test_push_in_between_is_not_overwritten(bench, hub):
    hub.add(REPO, {"mine.txt": b"x"})
    hub.pushed_meanwhile = {"theirs.txt": b"x"}
    with pytest.raises(UploadError, match="another commit came in between"):
        published(bench)
    assert commits(hub)[-1] == {"mine.txt": b"x", "theirs.txt": b"x"}


def test_what_is_not_of_the_release_is_removed_and_that_is_told(bench, hub, said):
    hub.add(REPO, {"pytorch_model.bin": b"x", "config.json": b"{}"})
    published(bench, confirm=False)
    assert "  remove  pytorch_model.bin" in said
    published(bench)
    assert commits(hub)[-1] == release_files(bench)


def test_signatures_of_another_release_go_first(bench, hub):
    """A changed release on top of one that is signed: in between there is no signature."""
    published(bench)
    bench.restate(
        lambda s: s["predicate"]["runDetails"]["metadata"].update(
            finishedOn="2031-01-01T00:00:00+00:00"
        )
    )
    published(bench)
    *_, content, signed = commits(hub)
    assert not set(SIGNATURES) & content.keys()
    assert signed == release_files(bench)


def test_signed_again(bench, hub):
    published(bench)
    bench.relist()
    published(bench)
    assert hub.messages == ["Release release", "Sign release", "Sign release"]
    assert commits(hub)[-1] == release_files(bench)


def test_hub_that_lost_something(bench, hub, monkeypatch):
    published(bench)
    newest = list(hub.repos["model", REPO])[-1]
    wrong = {**hub.repos["model", REPO][newest], "config.json": b"{}"}
    monkeypatch.setattr(publish, "_send", lambda client, plan, _: publish._require_there(
        client, plan, hub.add(REPO, wrong)))  # fmt: skip
    with pytest.raises(UploadError, match=r"does not hold what was sent, first config\.json"):
        published(bench)


def test_refused(bench, hub):
    hub.refusals[REPO] = (403, "")
    with pytest.raises(UploadError, match="HTTP 403: this account may not write") as told:
        published(bench)
    assert told.value.remedy == "may-write"


def test_unreachable(bench, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(UploadError, match="the upload broke off"):
        published(bench)


def test_dry_run_without_a_hub(bench, monkeypatch, said):
    """What there is to send can be told anyway."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert published(bench, confirm=False) is None
    assert "http://127.0.0.1:9 cannot be asked ([Errno 111] Connection refused 6 times)" in said
    assert sum(line.startswith("  send") for line in said) == len(release_files(bench))


@pytest.mark.parametrize("name", SIGNATURES[:2])
def test_unsigned_is_not_published(bench, hub, name):
    (bench / name).unlink()
    with pytest.raises(UploadError, match="so it is not signed") as told:
        published(bench)
    assert told.value.remedy == "not-signed"
    assert hub.requests == []


def test_changed_release_is_not_published(bench, hub):
    bench.flip("config.json", 5)
    with pytest.raises(ReleaseError, match="was changed since it was made a release"):
        published(bench)
    assert hub.requests == []


def test_rehearsal_is_published_only_if_asked_for(bench, hub):
    with pytest.raises(UploadError, match="is a rehearsal") as told:
        publish.upload(bench.folder, REPO, confirm=True, rehearsal=False)
    assert told.value.remedy == "rehearsal"
    assert hub.requests == []


@pytest.mark.usefixtures("hub")
def test_list_for_a_source_forge(bench):
    """What its release page should have: documents, provenance and signatures, as sha256sum."""
    published(bench, confirm=False)
    listed = bench.folder.with_name("release.files")
    subprocess.run(
        ["sha256sum", "--check", "--strict", listed],
        cwd=bench.folder, check=True, capture_output=True,
    )  # fmt: skip
    names = {line.partition("  ")[2] for line in listed.read_text(encoding="utf-8").splitlines()}
    assert {"README.md", "report.html", *SIGNATURES[:2]} <= names
    assert not [name for name in names if name.startswith("model-")]


def test_busy_hub_is_asked_again(bench, hub, waits):
    """Making the repository, sending a file and committing go on after a 503 each."""
    for part in ("api/repos/create", "/preupload/", "/lfs/", "/commit/"):
        hub.trouble(part, 503)
    commit = published(bench)
    assert hub.repos["model", REPO][commit] == release_files(bench)
    assert hub.messages == ["Release release", "Sign release"]
    assert waits


def test_commit_without_an_answer_is_not_sent_again(bench, hub):
    """It may be there. The next run looks."""
    hub.trouble("/commit/", "reset")
    with pytest.raises(UploadError, match="the upload broke off"):
        published(bench)
    assert sum("/commit/" in line for line in hub.requests) == 1


def test_long_wait_is_not_waited_for(bench, hub, waits):
    hub.trouble("/commit/", (503, {"Retry-After": "86400"}))
    with pytest.raises(UploadError, match="HTTP 503, and asks to come back in 86400 s"):
        published(bench)
    assert waits == []


def test_listing_that_is_none_is_told(bench, hub):
    hub.add(REPO, {"mine.txt": b"x"})
    hub.listing = b"<html>"
    with pytest.raises(UploadError, match="does not answer as a hub does"):
        published(bench)


def test_token_is_never_told(bench, hub, monkeypatch):
    """Not even where what answers quotes it."""
    monkeypatch.setenv("HF_TOKEN", "hf_secretsecretsecret")
    hub.trouble("/api/models/", (400, {"X-Error-Message": "no: Bearer hf_secretsecretsecret"}))
    with pytest.raises(UploadError, match="HTTP 400: no: Bearer <token>") as told:
        published(bench)
    assert "hf_secret" not in str(told.value)
