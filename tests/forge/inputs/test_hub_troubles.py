"""A hub that is busy, breaks off, never ends, asks for a token or answers nonsense."""

import datetime
import gzip
import json
import logging
import ssl
from email.utils import format_datetime
from ipaddress import ip_address

import pytest
from hub_server import blob_id, serve
from huggingface_hub import close_session, constants

from forge.core import hub_client, hub_session, machine
from forge.core.errors import FetchError
from forge.core.hub_session import TRIES
from forge.inputs import hub
from forge.recipes.sources import Checkpoint

REPO = "acme/model"
WEIGHTS = b"weights " * 5000
FILES = {"config.json": b'{"a": 1}', "model.safetensors": WEIGHTS}
# Every kind of request that fetching makes: the commit, the files, where one lies, its bytes.
PARTS = ("/revision/", "/tree/", "/resolve/", "/cdn/")
TOKEN = "hf_" + "secret" * 5


@pytest.fixture(autouse=True)
def server(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with serve() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


@pytest.fixture(autouse=True)
def waits(monkeypatch):
    """The seconds that would have been waited."""
    seconds = []
    monkeypatch.setattr(hub_session, "sleep", seconds.append)
    return seconds


@pytest.fixture
def impatient(monkeypatch):
    """Timeouts of a fraction of a second, each by its own setting."""
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.2)


@pytest.fixture
def fetch(server, tmp_path):
    commit = server.add(REPO, FILES)

    def take():
        files = ("*.safetensors", "config.json")
        source = Checkpoint(repo=REPO, revision=commit, files=files)
        taken = hub.take(source, source.files, tmp_path)
        return {name: file.path.read_bytes() for name, file in taken.items()}

    return take


def refused(fetch):
    with pytest.raises(FetchError) as caught:
        fetch()
    assert "\n" not in str(caught.value)
    return caught.value


def test_nothing_else_is_asked(server, fetch, monkeypatch):
    """huggingface_hub would fetch a list of coding agents from the public hub before all else."""
    lists = []
    monkeypatch.setattr(
        "huggingface_hub.utils._detect_agent._load_registry", lambda: lists.append(1)
    )
    monkeypatch.setattr("huggingface_hub.utils._detect_agent._registry", None)
    fetch()
    assert lists == []
    assert all(any(part in request for part in PARTS) for request in server.requests)


def asked(server, part):
    return sum(part in request for request in server.requests)


# Busy and broken


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("trouble", [408, 425, 429, 500, 502, 503, 504, "reset"])
def test_is_asked_again(server, fetch, waits, part, trouble):
    server.trouble(part, trouble, trouble)
    assert fetch() == FILES
    assert len(waits) == 2


@pytest.mark.parametrize("part", PARTS)
def test_is_given_up_after_some_tries(server, fetch, part):
    """The library's own tries do not multiply with ours."""
    server.trouble(part, *[503] * 100)
    error = refused(fetch)
    assert f"answers HTTP 503 {TRIES} times" in str(error)
    assert error.remedy == "busy"
    files = 2 if part == "/resolve/" else 1  # two files are asked for at once
    assert TRIES <= asked(server, part) <= files * TRIES


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("status", [401, 403, 404, 410, 451])
def test_is_not_asked_again(server, fetch, waits, part, status):
    """The sentence is that of the status, whichever request met it."""
    server.trouble(part, *[status] * 100)
    assert f"answers HTTP {status}: " in str(refused(fetch))
    assert asked(server, part) <= (2 if part == "/resolve/" else 1)
    assert waits == []


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("part", PARTS)
def test_an_answer_that_never_comes(server, fetch, part):
    server.trouble(part, *["hang"] * 100)
    error = refused(fetch)
    assert "cannot be reached (timed out" in str(error)
    assert error.remedy == "unreachable"


def test_waits_double_and_vary():
    for tries in range(1, 10):
        most = min(hub_session.FIRST_WAIT * 2 ** (tries - 1), hub_session.LONGEST_WAIT)
        drawn = {hub_session._wait(tries, None) for _ in range(50)}
        assert most / 2 <= min(drawn) < max(drawn) <= most


def in_seconds(seconds):
    now = datetime.datetime.now(datetime.UTC)
    return format_datetime(now + datetime.timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (429, {"Retry-After": "40"}),
        (503, {"Retry-After": "40"}),
        (503, {"Retry-After": in_seconds(41)}),
        (429, {"RateLimit": '"api";r=0;t=40'}),
    ],
)
def test_a_wait_that_is_asked_for(server, fetch, waits, status, headers):
    if "GMT" in headers.get("Retry-After", ""):
        headers = {"Retry-After": in_seconds(41)}
    server.trouble("/tree/", (status, headers))
    assert fetch() == FILES
    (wait,) = waits
    assert 39 <= wait <= 42


@pytest.mark.parametrize("asked_for", ["Fri, 31 Dec 9999 23:59:59 -2359", "Mon, 99 Foo 9", "soon"])
def test_a_wait_that_is_none(server, fetch, waits, asked_for):
    server.trouble("/tree/", (503, {"Retry-After": asked_for}))
    assert fetch() == FILES
    assert len(waits) == 1


@pytest.mark.parametrize("part", PARTS)
def test_a_wait_beyond_the_bound_is_told_at_once(server, fetch, waits, part):
    server.trouble(part, *[(429, {"Retry-After": "86400"})] * 100)
    assert "HTTP 429, and asks to come back in 86400 s" in str(refused(fetch))
    assert waits == []


# Listings


def entry(path="a.json", **changes):
    return {"type": "file", "path": path, "size": 2, "oid": blob_id(b"{}"), **changes}


@pytest.mark.parametrize(
    "listing",
    [
        b"<html>log in</html>",
        b"",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"error": "no"}',
        b"null",
        b"7",
        b'["a.json"]',
        b"[null]",
        b'[{"type": "file"}]',
        b'[{"path": "a.json"}]',
        json.dumps([entry(path=None)]).encode(),
        json.dumps([entry(path="")]).encode(),
        json.dumps([entry(path="../a.json")]).encode(),
        json.dumps([entry(path="/a.json")]).encode(),
        json.dumps([entry(path="a\\b.json")]).encode(),
        json.dumps([entry(), entry()]).encode(),
        json.dumps([entry(size=None)]).encode(),
        json.dumps([entry(size=-1)]).encode(),
        json.dumps([entry(oid=None)]).encode(),
        json.dumps([entry(lfs={"oid": 1, "size": 2, "pointerSize": 3})]).encode(),
        json.dumps([entry(lfs=[])]).encode(),
    ],
    ids=lambda listing: listing[:60].decode("ascii", "replace"),
)
def test_a_listing_that_is_none(server, fetch, listing):
    server.listing = listing
    error = refused(fetch)
    assert str(error).startswith(f"model {REPO} at ")
    assert server.url in str(error)
    assert error.remedy == "no-hub"


def test_a_name_that_no_request_can_have(server, fetch):
    """huggingface_hub raises an error of Python's own, of which nobody has heard before."""
    listed = [entry(path="config.json", size=1000), entry(path="\ud800.safetensors")]
    server.listing = json.dumps(listed).encode()
    error = refused(fetch)
    assert "huggingface_hub says: UnicodeEncodeError: 'utf-8' codec can't encode" in str(error)
    assert str(error).startswith(f"model {REPO} at ")
    assert error.remedy == "no-hub"


def test_a_listing_that_drips(server, fetch, monkeypatch):
    """Every byte comes in time, the whole does not."""
    monkeypatch.setattr(hub_session, "ANSWER_SECONDS", 0.5)
    server.trouble("/tree/", "drip")
    assert "did not end in time" in str(refused(fetch))


def test_pages_without_end(server, fetch, monkeypatch):
    monkeypatch.setattr(hub_client, "LISTING_SECONDS", 0.5)
    server.listing = lambda _: b"[]"
    assert "did not end in time" in str(refused(fetch))


def test_files_without_end(server, fetch, monkeypatch):
    monkeypatch.setattr(hub_client, "MOST_FILES", 20)
    server.listing = lambda page: json.dumps([entry(f"{page}.json")]).encode()
    assert "lists more than 20 files" in str(refused(fetch))


def test_a_page_beyond_the_bound(server, fetch, monkeypatch):
    monkeypatch.setattr(hub_session, "ANSWER_BYTES", 1 << 20)
    server.listing = json.dumps([entry()] * 20_000).encode()
    assert "sends an answer longer than 1,048,576 bytes" in str(refused(fetch))


def test_a_small_answer_that_is_large_once_decoded(server, fetch, monkeypatch):
    """4 KB of gzip that are 4 MB."""
    monkeypatch.setattr(hub_session, "ANSWER_BYTES", 1 << 20)
    encoded = gzip.compress(b" " * (4 << 20))
    assert len(encoded) < 10_000
    server.listing = encoded
    server.listing_encoding = "gzip"
    assert "sends an answer longer than 1,048,576 bytes" in str(refused(fetch))
    server.listing = gzip.compress(b"[]")
    assert "has no file '*.safetensors'" in str(refused(fetch))


# Downloads


def test_a_shorter_file_than_the_listed(server, fetch):
    """It is one line, in which huggingface_hub's advice on its own functions is left out."""
    server.forged["model.safetensors"] = b"weig"
    message = str(refused(fetch))
    assert f"should be of size {len(WEIGHTS)} but has size 4" in message
    assert "force_download" not in message


def test_a_longer_file_than_the_listed(server, fetch, tmp_path):
    """Of which no more than that is written, however much comes."""
    server.forged["model.safetensors"] = WEIGHTS + bytes(40 << 20)
    assert f"sends an answer longer than {len(WEIGHTS):,} bytes" in str(refused(fetch))
    assert max(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) <= len(
        WEIGHTS
    )

    server.forged.clear()
    assert fetch() == FILES


def test_a_forged_second_part_is_refused(server, fetch, monkeypatch, tmp_path):
    """The connection breaks in the middle, and what comes then is not the rest of that file."""
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    server.cuts["model.safetensors"] = 10_000
    server.forged_rest["model.safetensors"] = b"w" * (len(WEIGHTS) - 10_000)
    message = str(refused(fetch))
    assert [r for r in server.requests if r.endswith("bytes=10000-")]
    assert "#model.safetensors: the download has sha256" in message
    assert not [
        path for path in tmp_path.rglob("*") if path.name == "model.safetensors" and path.exists()
    ]

    server.forged_rest.clear()
    assert fetch() == FILES


# Tokens and certificates


@pytest.fixture
def everything_said(caplog, capfd, monkeypatch):
    """All that is logged or printed, at the most talkative setting."""
    caplog.set_level(logging.DEBUG)
    for name in ("huggingface_hub", "httpx", "httpcore"):
        caplog.set_level(logging.DEBUG, logger=name)
    monkeypatch.setattr(logging.getLogger("huggingface_hub"), "propagate", True)
    monkeypatch.setattr(constants, "HF_DEBUG", True)

    def said():
        out, err = capfd.readouterr()
        return caplog.text + out + err

    return said


def test_a_token_goes_to_the_hub_alone(server, fetch, monkeypatch, everything_said, tmp_path):
    """Not to the host that has the bytes, and into no log and no file."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    server.tokens[REPO] = TOKEN
    assert fetch() == FILES
    assert {header for _, header in server.authorized} == {f"Bearer {TOKEN}"}
    assert not [path for path, _ in server.authorized if path.startswith("/cdn/")]
    said = everything_said()
    assert "GET" in said
    assert TOKEN not in said
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and TOKEN.encode() in p.read_bytes()]


@pytest.mark.parametrize("token", [TOKEN, TOKEN + "\x07", TOKEN + "\u2026", None])
def test_a_wrong_token_is_told_without_it(server, fetch, monkeypatch, everything_said, token):
    server.tokens[REPO] = "another"
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)
    message = str(refused(fetch))
    assert "HTTP 401" in message or "characters that no header can carry" in message
    assert TOKEN not in message + everything_said()


def test_a_password_in_the_address_is_not_told(server, fetch, monkeypatch):
    """Neither in an error nor in what is recorded of the machine."""
    address = server.url.replace("://", "://someone:secret@")
    monkeypatch.setenv("HF_ENDPOINT", address)
    server.refusals[REPO] = (403, "")
    assert "secret" not in str(refused(fetch))
    assert machine.machine().environment["HF_ENDPOINT"] == server.url


def test_no_token_is_recorded_or_handed_to_a_container(monkeypatch):
    """A manifest records, and a container gets, no variable but these."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert not [name for name in machine.ENVIRONMENT if "TOKEN" in name]
    assert TOKEN not in machine.machine().model_dump_json()


@pytest.mark.parametrize(
    "value", ["1", "", "a@b", ":4096:8", "https://hub.example/a@b", "http://127.0.0.1:9"]
)
def test_what_has_no_user_stays(value):
    assert machine.without_user(value) == value


@pytest.fixture
def authority(tmp_path_factory):
    """A certificate for 127.0.0.1 that signs itself: its file, and a server's context with it."""
    folder = tmp_path_factory.mktemp("authority")
    # Where tests of the libraries are collected from this folder, there is no such package.
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "an authority of our own")])
    today = datetime.datetime.now(datetime.UTC)
    names = [x509.IPAddress(ip_address("127.0.0.1")), x509.DNSName("localhost")]
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(today - datetime.timedelta(days=1))
        .not_valid_after(today + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    (folder / "key.pem").write_bytes(private)
    (folder / "certificate.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
    return folder / "certificate.pem", context


def test_an_authority_of_our_own(authority, monkeypatch, tmp_path, waits):
    """SSL_CERT_FILE makes it trusted; without, that is said at once and nothing is fetched."""
    file, context = authority
    with serve(context) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        commit = server.add(REPO, FILES)
        source = Checkpoint(repo=REPO, revision=commit, files=("*.safetensors", "config.json"))
        monkeypatch.delenv("SSL_CERT_FILE", raising=False)
        close_session()
        with pytest.raises(FetchError, match="is not trusted here") as caught:
            hub.take(source, source.files, tmp_path)
        assert caught.value.remedy == "certificate"
        assert waits == []
        assert server.requests == []

        monkeypatch.setenv("SSL_CERT_FILE", str(file))
        close_session()
        taken = hub.take(source, source.files, tmp_path)
        assert {name: file.path.read_bytes() for name, file in taken.items()} == FILES
    close_session()
