"""Whatever a server answers, it is an error of the engine, in words; and only what a server that
lives has answered is a verdict about the checkpoint.
"""

import json
import socket
import threading
from contextlib import closing, nullcontext
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from assay.serving import garbage, perplexity, probes, sessions, smoke, speculation, tools
from assay.serving.client import Client, RefusedError
from assay.serving.perplexity import Perplexity, Text
from assay.serving.sessions import Session
from assay.serving.speculation import Handover
from assay.serving.texts import Writer
from forge.core import checkout
from forge.core.errors import EngineError
from forge.manifest.probe_figures import Timed
from forge.recipes import recipe


@pytest.fixture
def answering(tmp_path):
    """Starts a server that gives the same bytes to all, and a client of it."""
    (tmp_path / "log").write_text("the last words\n", encoding="utf-8")
    servers = []

    def start(data, encoding=None, status=200, health=200):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self.send_response(health if self.path == "/health" else status)
                self.send_header("Content-Length", str(len(data)))
                if encoding:
                    self.send_header("Content-Encoding", encoding)
                self.end_headers()
                self.wfile.write(data)

            do_POST = do_GET  # noqa: N815 - the class' names

            def log_message(self, *_):
                pass

        server = HTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        servers.append((server, thread))
        url = f"http://127.0.0.1:{server.server_port}"
        return closing(Client(url, model="m", log=tmp_path / "log"))

    yield start
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("data", "encoding", "fault"),
    [
        (b"<html>", None, "completions: the server answered no JSON .*Expecting value.*<html>"),
        (b"\xff\xfe", None, "the server answered no JSON"),
        (b"[]", None, "the server answered no answer"),
        (b'{"choices": []}', None, "the server answered no answer"),
        (b"no gzip", "gzip", "the server did not answer .DecodingError"),
    ],
)
def test_an_answer_that_is_none(answering, data, encoding, fault):
    with answering(data, encoding) as client:
        with pytest.raises(EngineError, match=f"(?s){fault}.*the last words"):
            client.completion("Once")
        with pytest.raises(EngineError, match="the last words"):
            client.chat([])


@pytest.mark.parametrize(
    ("stream", "fault"),
    [
        (b"", "no answer"),
        (b"data: [DONE]\n\n", "no answer"),
        (b'data: {"choices": [\n\n', "no JSON"),
        (b'data: {"choices": [{}]}\n\ndata: {"error": {"code": 500}}\n\n', "no answer"),
    ],
)
def test_a_stream_that_breaks_off(answering, stream, fault):
    with answering(stream) as client, pytest.raises(EngineError, match=f"(?s){fault}.*last words"):
        client.streamed_chat([])


def test_a_stream_is_cut_at_its_own_lines_alone(answering):
    """Texts may have what other readers take for the end of a line."""
    pieces = ["a\u2028b", "\x85c"]
    events = [{"choices": [{"delta": {"content": piece}}]} for piece in pieces]
    lines = [f"data: {json.dumps(event, ensure_ascii=False)}\n\n" for event in events]
    with answering("".join([*lines, "data: [DONE]\n\n"]).encode()) as client:
        found = client.streamed_chat([])
    assert [one["delta"]["content"] for one in found] == pieces


def test_health_that_cannot_be_read(answering):
    """It is not there yet, or is something else."""
    with answering(b"no gzip", "gzip") as client:
        assert not client.healthy()


TEXT = Text(name="text", content="a text", window=8)
BASE = Perplexity(windows=1, tokens=8, scored=7, value=8.5, mean_nll=2.14, seconds=1.0)
FLAGSHIP = recipe.find("qwen36-27b-vlm-mtp")
STANDIN = checkout.ROOT / "build/standins/qwen36-dense/checkpoint"
ONCE = ("Once",)
written = partial(Writer, prompts=ONCE)


def ended():
    """What a server with MTP has left, in no time."""
    left = Handover()
    left.leave([], lambda: Timed(tokens=1, seconds=1.0))
    left.end()
    return left


# Every probe that asks a server for something; what they were told has no part in it.
PROBES = {
    "smoke.chat.thinking_on": partial(probes.chat, thinking=True),
    "smoke.image": probes.image,
    "smoke.image_refused": probes.image_refused,
    "smoke.tool_call": tools.tool_call,
    "smoke.tool_nested": tools.tool_nested,
    "smoke.scripts": garbage.scripts,
    "smoke.streaming": garbage.streaming,
    "smoke.stop": partial(garbage.stop, checkpoint=STANDIN),
    "smoke.logprobs": partial(garbage.logprobs, text="Once"),
    "smoke.long_prompt": lambda client: written(client).long_prompt(chunk=128, longest=512),
    "smoke.concurrent": lambda client: written(client).at_once(),
    "smoke.mtp": partial(
        speculation.mtp, writer=written, left=Handover(), prompts=ONCE, together=True
    ),
    "smoke.greedy_identical": partial(speculation.rewrite, writer=written, left=Handover()),
    "smoke.mtp_speed": partial(speculation.speed, prompts=ONCE, left=ended()),
    "perplexity": partial(
        perplexity.compare, base=BASE, text=TEXT, args={"base": {}, "result": {}}
    ),
}
FULL = b'{"error": {"message": "No space left on device", "type": "InternalServerError"}}'


class Up:
    """A server that started."""

    def __init__(self, client):
        self.client = client

    def ready(self):
        return self.client


def ask(client, name):
    session = Session(server=nullcontext(), probes={name: PROBES[name]})
    return sessions.ask(Up(client), session, FLAGSHIP)


@pytest.mark.parametrize("status", [500, 503])
@pytest.mark.parametrize("name", PROBES)
def test_a_dying_engine_is_no_verdict(answering, name, status):
    """As vLLM answers when its compiler finds the disk full, while `/health` may still be good."""
    with answering(FULL, status=status) as client:
        with pytest.raises(EngineError, match=f"(?s){status}.*No space left.*last words") as told:
            ask(client, name)
        assert not isinstance(told.value, RefusedError)


@pytest.mark.parametrize("name", PROBES)
def test_a_dead_engine_is_no_verdict(tmp_path, name):
    """It takes a request and ends."""
    (tmp_path / "log").write_text("the last words\n", encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def drop():
            listening.accept()[0].close()

        thread = threading.Thread(target=drop)
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        with (
            closing(Client(url, model="m", log=tmp_path / "log")) as client,
            pytest.raises(EngineError, match="(?s)did not answer.*the last words") as told,
        ):
            ask(client, name)
        thread.join()
    assert not isinstance(told.value, RefusedError)


@pytest.mark.parametrize("status", [400, 404, 501])
@pytest.mark.parametrize("name", PROBES.keys() - {"smoke.image_refused"})
def test_what_a_living_engine_refuses_is_a_verdict(answering, name, status):
    """Such as a template that cannot be filled in, and probabilities that are no numbers."""
    with answering(b"the template is broken", status=status) as client:
        (check,) = ask(client, name)
    assert not check.passed
    assert check.name == name
    assert f"{status}: the template is broken" in check.problem


@pytest.mark.parametrize(
    ("answer", "passed"),
    [("At most 0 image(s) may be provided in one prompt.", True), ("a negative length", False)],
)
def test_a_refused_picture_is_a_verdict_when_the_engine_lives_on(answering, answer, passed):
    with answering(answer.encode(), status=400) as client:
        (check,) = ask(client, "smoke.image_refused")
    assert check.passed is passed
    with (
        answering(answer.encode(), status=400, health=503) as client,
        pytest.raises(EngineError, match="(?s)no longer healthy.*the last words"),
    ):
        ask(client, "smoke.image_refused")


def test_health_that_is_lost_is_no_verdict(answering):
    fitted = smoke.Fitted(device="cpu", args={}, env={}, adaptations=())
    with answering(b"", health=503) as client, pytest.raises(EngineError, match="last words"):
        smoke.health(client, began=0.0, fitted=fitted)
    with answering(b"") as client:
        assert smoke.health(client, began=0.0, fitted=fitted).startup_seconds > 0
