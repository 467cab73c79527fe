"""Whatever a server answers, it is an error of the engine, in words."""

import threading
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from assay.serving.client import Client
from forge.core.errors import EngineError


@pytest.fixture
def answering(tmp_path):
    """Starts a server that gives the same bytes to all, and a client of it."""
    (tmp_path / "log").write_text("the last words\n", encoding="utf-8")
    servers = []

    def start(data, encoding=None):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                if encoding:
                    self.send_header("Content-Encoding", encoding)
                self.end_headers()
                self.wfile.write(data)

            do_POST = do_GET  # noqa: N815 - the class' names

            def log_message(self, *_):
                pass

        server = HTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever)
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


def test_health_that_cannot_be_read(answering):
    """It is not there yet, or is something else."""
    with answering(b"no gzip", "gzip") as client:
        assert not client.healthy()
