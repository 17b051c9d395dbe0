"""Serves an explorer on the loopback interface, until Ctrl-C."""

from __future__ import annotations

import threading
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PORTS = range(8765, 8775)
"""Tried in this order; if all are taken, the system chooses. A browser keeps what it knows of a page by its port."""


class _Handler(SimpleHTTPRequestHandler):
    """Files with the types that browsers insist on, and isolated from other origins, which WebAssembly threads need."""

    extensions_map = {  # noqa: RUF012 (as in the base class)
        **SimpleHTTPRequestHandler.extensions_map,
        ".wasm": "application/wasm", ".mjs": "text/javascript", ".js": "text/javascript",
        ".css": "text/css", ".html": "text/html", ".json": "application/json",
    }  # fmt: skip

    def end_headers(self) -> None:
        """Add the headers to every answer."""
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing: stderr is gsd's."""


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """A context in which the folder is served on 127.0.0.1; yields its URL."""
    server = _bind(partial(_Handler, directory=str(folder)))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _bind(handler: Callable[..., SimpleHTTPRequestHandler]) -> ThreadingHTTPServer:
    for port in PORTS:
        try:
            return ThreadingHTTPServer(("127.0.0.1", port), handler)
        except OSError:  # taken
            continue
    return ThreadingHTTPServer(("127.0.0.1", 0), handler)


def open_browser(url: str) -> bool:
    """Open the user's browser; False where there is none."""
    try:
        return webbrowser.open(url)
    except webbrowser.Error:
        return False
