"""Publishing, against a hub server of our own: signatures last, on the stated parent, resumable."""

import subprocess

import pytest
from hub_server import serve
from hub_uploads import Uploads
from huggingface_hub import HfApi, constants

from forge.core import hub_session
from forge.core.errors import ReleaseError, UploadError
from forge.manifest.names import SIGNATURES
from forge.release import outgoing, publish, remote

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


SHARD = "model-00001-of-00001.safetensors"
CHANGED = r"was changed after it was checked, so it is not published"


@pytest.fixture(params=["from memory", "from its path"])
def way(request, monkeypatch):
    """How a file is sent; small ones would be read into memory."""
    if request.param == "from its path":
        monkeypatch.setattr(outgoing, "IN_MEMORY", 0)


def changes(bench, name, how):
    if how == "written to":
        bench.flip(name, 5)
    elif how == "gone":
        (bench / name).unlink()
    else:  # another file took its place
        data = bytearray((bench / name).read_bytes())
        data[5] ^= 1
        (bench / name).unlink()
        (bench / name).write_bytes(data)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("how", ["written to", "gone", "replaced"])
@pytest.mark.parametrize("name", [SHARD, SIGNATURES[0]])
def test_what_changes_after_it_was_hashed_is_not_sent(bench, hub, monkeypatch, name, how):
    """A neighbour writes between the check and the upload: nothing is done to the hub."""

    def plan(*words, real=remote.plan):
        changes(bench, name, how)
        return real(*words)

    monkeypatch.setattr(remote, "plan", plan)
    with pytest.raises(UploadError, match=CHANGED):
        published(bench)
    assert writes(hub) == []


@pytest.mark.parametrize("name", [SHARD, "provenance/release.json"])
def test_what_changes_while_it_is_hashed_is_not_sent(bench, hub, monkeypatch, name):
    """The list was compared already when another file took the place of one of its own."""

    def current(folder, real=publish.assemble.require_current):
        found = real(folder)
        changes(bench, name, "replaced")
        return found

    monkeypatch.setattr(publish.assemble, "require_current", current)
    with pytest.raises(UploadError, match=CHANGED):
        published(bench)
    assert writes(hub) == []


@pytest.mark.parametrize("when", ["before it is sent", "when it is sent"])
def test_a_large_file_that_changes_on_the_way(bench, hub, monkeypatch, when):
    """It is in no commit, also where the hub takes bytes of any digest."""
    monkeypatch.setattr(outgoing, "IN_MEMORY", 0)
    real = HfApi.preupload_lfs_files

    def preupload(self, repo, additions, **more):
        (addition,) = additions
        if addition.path_in_repo == SHARD and when == "before it is sent":
            bench.flip(SHARD, 5)
        real(self, repo, additions, **more)
        if addition.path_in_repo == SHARD and when == "when it is sent":
            bench.flip(SHARD, 5)

    monkeypatch.setattr(HfApi, "preupload_lfs_files", preupload)
    with pytest.raises(UploadError, match=CHANGED):
        published(bench)
    assert [list(files) for files in commits(hub)] == [[".gitattributes"]]


def test_a_large_file_that_the_hub_finds_changed(bench, hub, monkeypatch):
    """It is announced by one digest, and has another when it arrives."""
    monkeypatch.setattr(outgoing, "IN_MEMORY", 0)

    def batch(self, asked, real=Uploads._batch):
        bench.flip(SHARD, 5)
        real(self, asked)

    monkeypatch.setattr(Uploads, "_batch", batch)
    with pytest.raises(UploadError, match=CHANGED):
        published(bench)
    assert [list(files) for files in commits(hub)] == [[".gitattributes"]]


def test_what_is_read_is_sent_though_it_changes_then(bench, hub, monkeypatch):
    """What goes from memory is whole: the release that was checked, its signatures included."""
    there = release_files(bench)

    def create(self, *words, real=HfApi.create_repo, **more):
        for name in ("config.json", "provenance/release.json", SIGNATURES[0]):
            bench.flip(name, 5)
        return real(self, *words, **more)

    monkeypatch.setattr(HfApi, "create_repo", create)
    published(bench)
    assert commits(hub)[-1] == there


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
