"""Statistics by name, against a server on loopback that serves files of clean-fid's format."""

from __future__ import annotations

import functools
import http.server
import io
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gsd_cli.base.errors import GsdError
from gsd_cli.catalogue.registry import TEACHERS
from gsd_cli.metrics import published
from gsd_cli.metrics.published import PUBLISHED, published_statistics


def npz(size: int) -> bytes:
    """What clean-fid writes: mu and sigma alone."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, mu=np.arange(size, dtype=np.float64), sigma=np.eye(size))
    return buffer.getvalue()


class Handler(http.server.BaseHTTPRequestHandler):
    payload, asked = b"", ""

    def do_GET(self) -> None:
        type(self).asked = self.path
        self.send_response(200 if self.payload else 404)
        self.send_header("Content-Length", str(len(self.payload)))
        self.end_headers()
        self.wfile.write(self.payload)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Handler]]:
    handler = type("Fresh", (Handler,), {})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as listening:
        threading.Thread(target=functools.partial(listening.serve_forever, 0.02), daemon=True).start()
        monkeypatch.setattr(published, "URL", f"http://127.0.0.1:{listening.server_port}/stats")
        yield handler
        listening.shutdown()


def test_fetched_once_then_read_from_the_cache(server: type[Handler], tmp_path: Path) -> None:
    server.payload = npz(2048)
    found = published_statistics("cifar10-train", tmp_path, offline=False)
    assert server.asked == "/stats/cifar10_clean_train_32.npz"
    assert (found.extractor, found.n, found.about["size"]) == ("inception", 50_000, "32")
    np.testing.assert_array_equal(found.mu, np.arange(2048))
    server.payload = b""
    again = published_statistics("cifar10-train", tmp_path, offline=True)
    np.testing.assert_array_equal(again.sigma, np.eye(2048))


@pytest.mark.parametrize("payload", [b"", b"<html>not found</html>", npz(64), npz(2048)[:-9000]])
def test_what_is_no_such_file_is_not_kept(payload: bytes, server: type[Handler], tmp_path: Path) -> None:
    server.payload = payload
    with pytest.raises(GsdError, match="cannot download") as caught:
        published_statistics("ffhq-256", tmp_path, offline=False)
    assert caught.value.code == 4
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_offline_says_where_to_put_it(tmp_path: Path) -> None:
    with pytest.raises(GsdError) as caught:
        published_statistics("lsun-church", tmp_path, offline=True)
    assert caught.value.code == 4
    assert "lsun_church_clean_train_256.npz" in str(caught.value.hint)


def test_what_lies_in_the_cache_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "statistics" / PUBLISHED["cifar10-test"].file
    path.parent.mkdir()
    path.write_bytes(npz(64))
    with pytest.raises(GsdError, match="64 means") as caught:
        published_statistics("cifar10-test", tmp_path, offline=False)
    assert caught.value.code == 3


def test_teachers_name_statistics_of_their_size() -> None:
    named = {name: entry for name, entry in TEACHERS.items() if entry.statistics}
    assert set(named) == {"ddpm-cifar10", "ddpm-church", "ncsnpp-ffhq", "ncsnpp-church"}
    assert all(PUBLISHED[str(entry.statistics)].size == entry.size for entry in named.values())
