"""The writing half of the hub on loopback: repositories, large files, commits with a parent.

A commit is refused unless it follows the newest one, as the real hub does when it is told which
one it is to follow; a large file must have been sent before.
"""

import base64
import hashlib
import json
from urllib.parse import unquote, urlsplit


class Uploads:
    """What the request handler does with POST and PUT."""

    def do_POST(self):  # noqa: N802 - the base class' name
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = unquote(urlsplit(self.path).path).strip("/")
        self.hub.requests.append(f"POST /{path}")
        if self._is_troubled():
            return None
        if path == "api/repos/create":
            return self._create(json.loads(body))
        if path == "api/validate-yaml":
            return self._send_json({"errors": [], "warnings": []})
        if path.endswith(".git/info/lfs/objects/batch"):
            return self._batch(json.loads(body)["objects"])
        _, _, owner, name, what, _ = path.split("/")
        repo = "model", f"{owner}/{name}"
        return {"preupload": self._preupload, "commit": self._take_commit}[what](repo, body)

    def do_PUT(self):  # noqa: N802
        data = self.rfile.read(int(self.headers["Content-Length"]))
        oid = self.path.rpartition("/")[2]
        self.hub.requests.append(f"PUT {oid}")
        if self._is_troubled():
            return None
        if oid in self.hub.full_for:
            return self._refuse(413, "")
        if hashlib.sha256(data).hexdigest() != oid:
            return self._refuse(422, "")
        self.hub.objects[oid] = data
        return self._send(200, b"")

    def _create(self, asked):
        repo = f"{asked['organization']}/{asked['name']}"
        self.hub.add(repo, {".gitattributes": b"of the hub"})
        self._send_json({"url": f"{self.hub.url}/{repo}"})

    def _preupload(self, _repo, body):
        files = [
            {
                "path": one["path"],
                "uploadMode": "lfs" if one["path"].endswith(".safetensors") else "regular",
                "shouldIgnore": False,
            }
            for one in json.loads(body)["files"]
        ]
        self._send_json({"files": files})

    def _batch(self, asked):
        objects = []
        for one in asked:
            answer = dict(one)
            if one["oid"] not in self.hub.objects:
                answer["actions"] = {"upload": {"href": f"{self.hub.url}/lfs/{one['oid']}"}}
            objects.append(answer)
        self._send_json({"objects": objects, "transfer": "basic"})

    def _take_commit(self, repo, body):
        header, *operations = [json.loads(line) for line in body.splitlines()]
        newest, files = list(self.hub.repos[repo].items())[-1]
        if self.hub.pushed_meanwhile:
            newest = self.hub.add(repo[1], {**files, **self.hub.pushed_meanwhile})
        if header["value"]["parentCommit"] != newest:
            return self._refuse(412, "")
        files = dict(files)
        for operation in operations:
            value = operation["value"]
            match operation["key"]:
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    files[value["path"]] = self.hub.objects[value["oid"]]
                case "deletedFile":
                    del files[value["path"]]
        commit = self.hub.add(repo[1], files)
        self.hub.messages.append(header["value"]["summary"])
        page = f"{self.hub.url}/{repo[1]}/commit/{commit}"
        return self._send_json({"commitUrl": page, "commitOid": commit})
