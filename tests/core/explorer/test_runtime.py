"""The runtime of the browser: fetched once, checked, and refused in words where it is not what was pinned."""

from __future__ import annotations

import io
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from gsd_cli.base.console import Console
from gsd_cli.base.errors import ExitCode, GsdError
from gsd_cli.base.session import Session
from gsd_cli.core.explorer import runtime


def session(cache: Path, *, offline: bool = False) -> Session:
    return Session(Console(quiet=True), offline=offline, cache=cache)


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A registry on this machine; the folder from which it serves tarballs."""
    folder = tmp_path / "registry" / "onnxruntime-web" / "-"
    folder.mkdir(parents=True)

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "registry")))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("npm_config_registry", f"http://127.0.0.1:{server.server_address[1]}/")
    yield folder
    server.shutdown()
    server.server_close()


def small_tarball(path: Path) -> bytes:
    """A tarball of the same layout with other files."""
    with tarfile.open(path, "w:gz") as archive:
        for name in (name for files in runtime.BACKENDS.values() for name in files):
            entry = tarfile.TarInfo(f"package/dist/{name}")
            entry.size = len(name)
            archive.addfile(entry, io.BytesIO(name.encode()))
    return path.read_bytes()


def test_offline_it_says_where_to_put_the_tarball(tmp_path: Path) -> None:
    with pytest.raises(GsdError) as caught:
        runtime.fetch_runtime(session(tmp_path, offline=True))
    assert caught.value.code == ExitCode.NETWORK
    assert str(tmp_path / runtime.TARBALL) in str(caught.value.hint)
    assert "https://registry.npmjs.org/onnxruntime-web/-/" in str(caught.value.hint)


def test_another_file_is_refused_and_not_kept(tmp_path: Path, registry: Path) -> None:
    small_tarball(registry / runtime.TARBALL)
    with pytest.raises(GsdError, match="sha512 differs") as caught:
        runtime.fetch_runtime(session(tmp_path / "cache"))
    assert caught.value.code == ExitCode.INPUT
    assert not (tmp_path / "cache" / runtime.TARBALL).exists()


def test_a_registry_without_it_is_a_line(tmp_path: Path, registry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for address in (None, "not a url", "http://127.0.0.1:9"):
        if address is not None:
            monkeypatch.setenv("npm_config_registry", address)
        with pytest.raises(GsdError, match="cannot download") as caught:
            runtime.fetch_runtime(session(tmp_path / "cache"))
        assert caught.value.code == ExitCode.NETWORK


def test_what_is_intact_is_fetched_once(tmp_path: Path, registry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import base64
    import hashlib

    content = small_tarball(registry / runtime.TARBALL)
    digest = base64.b64encode(hashlib.sha512(content).digest()).decode()
    monkeypatch.setattr(runtime, "INTEGRITY", f"sha512-{digest}")
    path = runtime.fetch_runtime(session(tmp_path / "cache"))
    assert path.read_bytes() == content
    (registry / runtime.TARBALL).unlink()
    assert runtime.fetch_runtime(session(tmp_path / "cache", offline=True)) == path
    runtime.extract_runtime(path, tmp_path / "ort")
    assert sorted(p.name for p in (tmp_path / "ort").iterdir()) == sorted(sum(runtime.BACKENDS.values(), ()))
    path.write_bytes(content[:-1])
    with pytest.raises(GsdError, match="differs") as caught:
        runtime.fetch_runtime(session(tmp_path / "cache", offline=True))
    assert caught.value.code == ExitCode.INPUT
