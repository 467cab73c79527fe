"""A model hub on the loopback interface, as far as huggingface_hub talks to it.

It has commits, a tree with LFS and plain files, redirects large files to a second address as the
real one does, answers ranges, pages its history, and can be told to misbehave.
"""

import hashlib
import json
import os
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from urllib.parse import parse_qs, unquote, urlsplit

from hub_uploads import Uploads

LARGE = (".safetensors", ".parquet")
PAGE = 2


def blob_id(data: bytes) -> str:
    """Git's name of a file's bytes."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


@dataclass(kw_only=True)
class Hub:
    """What the server holds and how it misbehaves; tests write to it while it runs."""

    url: str = ""
    # (kind, repository) -> commit -> path -> bytes; the newest commit is the last.
    repos: dict[tuple[str, str], dict[str, dict[str, bytes]]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    # Sent in place of the listed bytes, by path.
    forged: dict[str, bytes] = field(default_factory=dict)
    # After so many bytes of a path the connection breaks, once.
    cuts: dict[str, int] = field(default_factory=dict)
    # Whether it is reset then, rather than closed.
    cut_by_reset: bool = False
    # Status and X-Error-Code of every answer about a repository.
    refusals: dict[str, tuple[int, str]] = field(default_factory=dict)
    # Claimed in place of the commit asked for.
    claimed: str | None = None
    # Large files that were sent, by sha256, and those that the hub has no room for.
    objects: dict[str, bytes] = field(default_factory=dict)
    full_for: set[str] = field(default_factory=set)
    # What somebody else commits just before the next commit arrives.
    pushed_meanwhile: dict[str, bytes] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    # By a part of the path: what becomes of the next requests for it, in turn. A status with its
    # headers, or "reset" (no answer), "hang" (none, and the connection stays), "drip" (a byte every
    # now and then). None: answered as usual.
    troubles: dict[str, list[tuple[int, dict[str, str]] | str | None]] = field(default_factory=dict)
    # Sent in place of the rest of a path, where a broken download goes on.
    forged_rest: dict[str, bytes] = field(default_factory=dict)
    # Sent in place of a listing of files; pages that follow each other are made by a function.
    listing: bytes | Callable[[int], bytes] | None = None
    listing_encoding: str = "identity"
    # The token that a repository wants, and what was sent as one: path and header.
    tokens: dict[str, str] = field(default_factory=dict)
    authorized: list[tuple[str, str]] = field(default_factory=list)
    closing: Event = field(default_factory=Event)

    def trouble(self, part: str, *what: tuple[int, dict[str, str]] | str | int | None) -> None:
        """Adds to the troubles of a part of the path; a status alone has no headers."""
        self.troubles.setdefault(part, []).extend(
            (one, {}) if isinstance(one, int) else one for one in what
        )

    def add(
        self, repo: str, files: Mapping[str, bytes], *, kind: str = "model", commit: str = ""
    ) -> str:
        """Puts a commit on top of a repository and returns its id."""
        commit = commit or hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()  # noqa: S324
        self.repos.setdefault((kind, repo), {})[commit] = dict(files)
        return commit


@contextmanager
def serve(
    certificate: ssl.SSLContext | None = None, handler: "type[Handler] | None" = None
) -> Iterator[Hub]:
    """A running hub; `HF_ENDPOINT` is to be its `url`."""
    hub = Hub()
    answering = type("Answering", (handler or Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), answering) as server:
        hub.url = f"http://127.0.0.1:{server.server_port}"
        if certificate is not None:
            server.socket = certificate.wrap_socket(server.socket, server_side=True)
            hub.url = hub.url.replace("http:", "https:")
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield hub
        finally:
            hub.closing.set()
            server.shutdown()
            thread.join()


class Handler(Uploads, BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else the body waits for word that the headers have arrived

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        self.hub.requests.append(f"{self.command} {self.path} {self.headers.get('Range', '')}")
        if self._is_troubled():
            return None
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        if parts[0] == "cdn":
            return self._send_file(*self._find(*parts[1:4]), "/".join(parts[4:]))
        if parts[0] == "api":
            kind, repo = parts[1][:-1], "/".join(parts[2:4])
            if parts[4:] == [] and not (
                (kind, repo) in self.hub.repos or repo in self.hub.refusals
            ):
                return self._refuse(404, "RepoNotFound")  # who may write is told
            what, revision = parts[4:6] or ("revision", "main")
            return self._with_commit(kind, repo, revision, getattr(self, f"_{what}"))
        kind = "dataset" if parts[0] == "datasets" else "model"
        owner, name, _, revision, *path = parts[kind == "dataset" :]
        send = lambda *found: self._resolve(*found, "/".join(path))  # noqa: E731
        return self._with_commit(kind, f"{owner}/{name}", revision, send)

    def _find(self, kind, owner, name):
        *_, newest = self.hub.repos[kind, f"{owner}/{name}"].items()
        return kind, f"{owner}/{name}", *newest

    def _with_commit(self, kind, repo, revision, answer):
        """Answers about a commit, or says as the real hub does why not."""
        if repo in self.hub.refusals:
            return self._refuse(*self.hub.refusals[repo])
        if f"Bearer {self.hub.tokens.get(repo)}" != self.headers.get(
            "Authorization", "Bearer None"
        ):
            return self._refuse(401, "")
        commits = self.hub.repos.get((kind, repo))
        if commits is None:
            return self._refuse(401, "")  # the real hub does not tell a missing one from a private
        commit = list(commits)[-1] if revision == "main" else revision
        if commit not in commits:
            return self._refuse(404, "RevisionNotFound")
        return answer(kind, repo, commit, commits[commit])

    def _revision(self, kind, repo, commit, files):  # noqa: ARG002
        siblings = [{"rfilename": path} for path in files]
        self._send_json({"id": repo, "sha": self.hub.claimed or commit, "siblings": siblings})

    def _tree(self, kind, repo, commit, files):  # noqa: ARG002
        if self.hub.listing is None:
            return self._send_json([self._entry(path, data) for path, data in files.items()])
        if isinstance(self.hub.listing, bytes):
            return self._send(
                200, self.hub.listing, **{"Content-Encoding": self.hub.listing_encoding}
            )
        address = urlsplit(self.path)
        page = int(parse_qs(address.query).get("p", ["0"])[0])
        link = f'<{self.hub.url}{address.path}?p={page + 1}>; rel="next"'
        return self._send(200, self.hub.listing(page), Link=link)

    def _entry(self, path, data):
        entry = {"type": "file", "path": path, "size": len(data), "oid": blob_id(data)}
        if path.endswith(LARGE):
            digest = hashlib.sha256(data).hexdigest()
            pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\n".encode()
            entry["oid"] = blob_id(pointer)
            entry["lfs"] = {"oid": digest, "size": len(data), "pointerSize": len(pointer)}
        return entry

    def _commits(self, kind, repo, commit, files):  # noqa: ARG002
        page = int(parse_qs(urlsplit(self.path).query).get("p", ["0"])[0])
        history = list(self.hub.repos[kind, repo])[::-1]
        there = history[page * PAGE : (page + 1) * PAGE]
        day = "2026-01-01T00:00:00.000Z"
        rows = [{"id": c, "title": "", "message": "", "authors": [], "date": day} for c in there]
        more = len(history) > (page + 1) * PAGE
        here = urlsplit(self.path).path
        link = {"Link": f'<{self.hub.url}{here}?p={page + 1}>; rel="next"'} if more else {}
        self._send_json(rows, **link)

    def _resolve(self, kind, repo, commit, files, path):
        if path not in files:
            return self._refuse(404, "EntryNotFound")
        entry = self._entry(path, files[path])
        about = {"X-Repo-Commit": self.hub.claimed or commit}
        if "lfs" not in entry:
            return self._send_file(kind, repo, commit, files, path, ETag=entry["oid"], **about)
        about |= {"X-Linked-Etag": entry["lfs"]["oid"], "X-Linked-Size": str(entry["size"])}
        # Another host, as the real one's: the client does not follow there with its HEAD.
        elsewhere = self.hub.url.replace("127.0.0.1", "localhost")
        return self._send(302, b"", Location=f"{elsewhere}/cdn/{kind}/{repo}/{path}", **about)

    def _send_file(self, kind, repo, commit, files, path, **headers):  # noqa: ARG002
        data, status = self.hub.forged.get(path, files[path]), 200
        if given := self.headers.get("Range"):
            start = int(given.removeprefix("bytes=").split("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            data, status = self.hub.forged_rest.get(path, data[start:]), 206
        cut = self.hub.cuts.pop(path, None) if self.command == "GET" else None
        return self._send(status, data, cut=cut, **headers)

    def _is_troubled(self):
        """Makes the trouble that is due, if any."""
        if token := self.headers.get("Authorization"):
            self.hub.authorized.append((self.path, token))
        waiting = [due for part, due in self.hub.troubles.items() if part in self.path and due]
        what = waiting[0].pop(0) if waiting else None
        if what is None:
            return False
        self.close_connection = isinstance(what, str)
        if what == "hang":
            self.hub.closing.wait(30)
        elif what == "drip":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            while not self.hub.closing.wait(0.05):
                try:
                    self.wfile.write(b" ")
                except OSError:  # the client has gone
                    break
        elif what != "reset":
            status, headers = what
            self._send(status, b"", **headers)
        return True

    def _refuse(self, status, code):
        self._send(status, b"", **({"X-Error-Code": code} if code else {}))

    def _send_json(self, value, **headers):
        self._send(200, json.dumps(value).encode(), **headers)

    def _send(self, status, data, *, cut=None, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, f'"{value}"' if name in {"ETag", "X-Linked-Etag"} else value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[:cut])
            self.close_connection = cut is not None
            if cut is not None and self.hub.cut_by_reset:
                # Closed without a farewell: the socketserver would send one.
                time.sleep(0.1)  # what was sent is to be read before
                now = struct.pack("ii", 1, 0)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, now)
                os.close(self.connection.detach())

    def log_message(self, format, *args):  # noqa: A002 - the base class' name
        """Keeps the tests' output clean."""
