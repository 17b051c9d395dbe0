"""Data sets of the hub: a small server that speaks its protocol, the real library, real processes."""

from __future__ import annotations

import functools
import hashlib
import http.server
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from gsd_cli.base.errors import GsdError
from gsd_cli.data.sources.open import open_source
from tests.support.images import encoded, grey

pytest.importorskip("datasets")

COMMIT = "5d" * 20
COLOUR = encoded(Image.new("RGB", (3, 3), (1, 2, 3)))


def parquet() -> bytes:
    """Five images with classes, and a column that is neither, as the hub's own library writes them."""
    import datasets

    features = datasets.Features(
        {
            "id": datasets.Value("int64"),
            "image": datasets.Image(),
            "kind": datasets.ClassLabel(names=["cat", "dog"]),
        }
    )
    images = [{"bytes": grey(10 * i), "path": None} for i in range(4)] + [{"bytes": COLOUR, "path": "x.png"}]
    table = datasets.Dataset.from_dict({"id": [*range(5)], "image": images, "kind": [0, 1, 1, 0, 1]}, features=features)
    buffer = io.BytesIO()
    table.to_parquet(buffer)
    return buffer.getvalue()


class Hub(http.server.BaseHTTPRequestHandler):
    """One repository, someone/pets."""

    files: dict[str, bytes]

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        name = path.partition("/resolve/")[2].partition("/")[2]
        if path.startswith("/datasets/someone/pets/resolve/") and name in self.files:
            body = self.files[name]
            self._send(200, body, {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha256(body).hexdigest()}"'})
        elif path.startswith("/datasets/someone/pets/resolve/"):
            self._send(404, b"", {"X-Repo-Commit": COMMIT, "X-Error-Code": "EntryNotFound"})
        elif path.startswith("/api/datasets/someone/pets/tree/"):
            listed: list[dict] = [{"type": "directory", "path": "data", "oid": "1" * 40}]
            listed += [{"type": "file", "path": k, "size": len(v), "oid": "0" * 40} for k, v in self.files.items()]
            self._send(200, json.dumps(listed).encode())
        elif path.startswith("/api/datasets/someone/pets"):
            facts = {"id": "someone/pets", "sha": COMMIT, "siblings": [{"rfilename": k} for k in self.files]}
            self._send(200, json.dumps(facts).encode())
        else:
            self._send(404, b"", {"X-Error-Code": "RepoNotFound"})

    def do_HEAD(self) -> None:
        self.do_GET()

    def _send(self, code: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


SCRIPT = """
import json, sys
from pathlib import Path
from gsd_cli.data.decode import decode
from gsd_cli.data.sources.open import open_source
from gsd_cli.base.errors import GsdError

for spec, split, offline in json.loads(sys.argv[1]):
    try:
        source = open_source(spec, split, Path("cache"), offline=offline)
        places = [range(start, len(source.names)) for start in (0, 3)]
        pixels = [decode(p).getpixel((0, 0)) for chosen in places for p in source.payloads(chosen)]
        labels = source.labels
        found = [source.name, list(source.names), pixels, labels.values, labels.classes, source.facts]
    except GsdError as error:
        found = int(error.code)
    print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hub")


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    handler = type("Handler", (Hub,), {"files": {"data/train-00000-of-00001.parquet": parquet()}})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as listening:
        threading.Thread(target=functools.partial(listening.serve_forever, 0.02), daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()


def run(home: Path, endpoint: str, *questions: tuple[str, str, bool]) -> list:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(questions)],
        env={**kept, "HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1"},
        cwd=home,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_set_is_fetched_cached_and_used_offline(home: Path, endpoint: str) -> None:
    pets = ("hf:someone/pets", "train", False)
    found, other_split, unknown = run(
        home, endpoint, pets, ("hf:someone/pets", "validation", False), ("hf:someone/else", "train", False)
    )
    values = [0, 10, 20, 30, [1, 2, 3]]
    assert found == [
        "pets (train)",
        [f"train/{i}" for i in range(5)],
        values + values[3:],
        [0, 1, 1, 0, 1],
        ["cat", "dog"],
        {"hub": "someone/pets", "revision": COMMIT},
    ]
    assert (other_split, unknown) == (2, 4)
    nowhere = "http://127.0.0.1:1"
    cached, never = run(home, nowhere, ("hf:someone/pets", "train", True), ("hf:someone/never", "train", True))
    assert cached == found
    assert never == 4


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(GsdError) as caught:
        open_source("hf:someone/pets", "train", Path("cache"), offline=False)
    assert caught.value.code == 3
    assert "pip install datasets" in str(caught.value.hint)


def test_a_library_that_runs_scripts_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(__version__="3.6.0"))
    with pytest.raises(GsdError) as caught:
        open_source("hf:someone/pets", "train", Path("cache"), offline=False)
    assert "can run scripts" in caught.value.message
    assert "datasets>=4" in str(caught.value.hint)
