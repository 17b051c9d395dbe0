"""A small hub: serves folders over HTTP on loopback, and takes uploads, as huggingface.co does for its own client."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "5f0a" * 10


@dataclass
class Hub:
    """Repositories by `owner/name`, and what goes wrong.

    cut_after: break the connection after this number of bytes of a weight file, once. damage: flip a byte of
    every weight file sent. gated: names that need permission. requests: (method, path, range). tokens: what
    clients sent to authorise themselves. uploads: where uploaded repositories are kept. token: the one that may upload.
    read_only: a token that may not. commits: (repository, message, files).
    """

    url: str
    folders: dict[str, Path]
    cut_after: int | None = None
    damage: bool = False
    gated: set[str] = field(default_factory=set)
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    uploads: Path | None = None
    token: str | None = None
    read_only: str | None = None
    blobs: dict[str, bytes] = field(default_factory=dict)
    commits: list[tuple[str, str, list[str]]] = field(default_factory=list)


@contextmanager
def serve(folders: dict[str, Path]) -> Iterator[Hub]:
    """A running hub; point HF_ENDPOINT at its `url`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    hub = Hub(f"http://127.0.0.1:{server.server_port}", folders)
    server.hub = hub  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    @property
    def hub(self) -> Hub:
        return self.server.hub  # type: ignore[attr-defined, no-any-return]

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_POST(self) -> None:
        path = self._note()
        payload = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif self._may_write():
            self._take(path, payload)

    def do_PUT(self) -> None:
        """The bytes of a large file. The address is the permission, as with signed addresses."""
        payload = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.blobs[self._note().rpartition("/")[2]] = payload
        self._json({})

    def _note(self) -> str:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path, self.headers.get("Range")))
        self.hub.tokens.add(self.headers.get("Authorization", ""))
        return path

    def _may_write(self) -> bool:
        given = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if given == self.hub.read_only:
            self._error(403, "")
        elif given != self.hub.token:
            self._error(401, "")
        return given == self.hub.token

    def _take(self, path: str, payload: bytes) -> None:
        assert self.hub.uploads is not None
        if path == "/api/repos/create":
            asked = json.loads(payload)
            repo = f"{asked['organization']}/{asked['name']}"
            self.hub.folders.setdefault(repo, self.hub.uploads / repo).mkdir(parents=True, exist_ok=True)
            self._json({"url": f"{self.hub.url}/{repo}", "name": repo})
        elif path.endswith(".git/info/lfs/objects/batch"):
            links = [
                {"oid": o["oid"], "size": o["size"], "actions": {"upload": {"href": f"{self.hub.url}/lfs/{o['oid']}"}}}
                for o in json.loads(payload)["objects"]
            ]
            self._json({"transfer": "basic", "objects": links})
        elif "/preupload/" in path:
            names = [file["path"] for file in json.loads(payload)["files"]]
            modes = [(name, "lfs" if _large(name) else "regular") for name in names]
            self._json({"files": [{"path": n, "uploadMode": mode, "shouldIgnore": False} for n, mode in modes]})
        elif "/commit/" in path:
            self._commit("/".join(path.split("/")[3:5]), [json.loads(line) for line in payload.splitlines()])
        else:
            self._error(404, "EntryNotFound")

    def _commit(self, repo: str, lines: list[dict[str, Any]]) -> None:
        folder, names = self.hub.folders[repo], []
        for line in lines[1:]:
            value = line["value"]
            content = base64.b64decode(value["content"]) if line["key"] == "file" else self.hub.blobs[value["oid"]]
            target = folder / value["path"]
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
            names.append(value["path"])
        self.hub.commits.append((repo, lines[0]["value"]["summary"], names))
        self._json({"commitUrl": f"{self.hub.url}/{repo}/commit/{COMMIT}", "commitOid": COMMIT})

    def _answer(self, *, body: bool) -> None:
        parts = self._note().strip("/").split("/")
        if parts == ["api", "whoami-v2"]:
            known = (self.hub.token, self.hub.read_only)
            if self.headers.get("Authorization", "").removeprefix("Bearer ") in known:
                self._json({"name": "someone", "type": "user"})
            else:
                self._error(401, "")
        elif parts[:2] == ["api", "models"]:
            self._api("/".join(parts[2:4]), parts[4:])
        elif len(parts) > 4 and parts[2] == "resolve":
            self._file("/".join(parts[:2]), parts[3], "/".join(parts[4:]), body)
        else:
            self._error(404, "EntryNotFound")

    def _folder(self, repo: str, revision: str) -> Path | None:
        if repo in self.hub.gated:
            self._error(403, "GatedRepo")
        elif repo not in self.hub.folders:
            self._error(404, "RepoNotFound")
        elif revision not in ("main", COMMIT):
            self._error(404, "RevisionNotFound")
        else:
            return self.hub.folders[repo]
        return None

    def _api(self, repo: str, rest: list[str]) -> None:
        kind, revision = [*rest, "", "main"][:2] if rest else ("revision", "main")
        folder = self._folder(repo, revision or "main")
        if folder is None:
            return
        files = sorted(p for p in folder.rglob("*") if p.is_file())
        names = [p.relative_to(folder).as_posix() for p in files]
        if kind == "tree":
            self._json([_entry(name, path) for name, path in zip(names, files, strict=True)])
        else:
            self._json({"id": repo, "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]})

    def _file(self, repo: str, revision: str, name: str, body: bool) -> None:
        folder = self._folder(repo, revision)
        if folder is None:
            return
        path = folder / name
        if not path.is_file():
            self._error(404, "EntryNotFound")
            return
        payload = path.read_bytes()
        etag = hashlib.sha256(payload).hexdigest() if _large(name) else hashlib.sha1(payload).hexdigest()
        if self.hub.damage and _large(name):
            payload = payload[:-1] + bytes([payload[-1] ^ 1])
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        part = payload[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(part)))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(payload) - 1}/{len(payload)}")
        self.send_header("ETag", f'"{etag}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        if not body:
            return
        if self.hub.cut_after is not None and _large(name):
            part, self.hub.cut_after = part[: self.hub.cut_after], None
            self.close_connection = True
        self.wfile.write(part)

    def _json(self, value: object) -> None:
        payload = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(payload)

    def _error(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()


def _large(name: str) -> bool:
    return name.endswith((".safetensors", ".bin"))


def _entry(name: str, path: Path) -> dict[str, object]:
    payload = path.read_bytes()
    entry: dict[str, object] = {
        "type": "file",
        "path": name,
        "size": len(payload),
        "oid": hashlib.sha1(payload).hexdigest(),
    }
    if _large(name):
        digest = hashlib.sha256(payload).hexdigest()
        entry["lfs"] = {"oid": digest, "size": len(payload), "pointerSize": 134}
    return entry
