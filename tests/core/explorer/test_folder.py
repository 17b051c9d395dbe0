"""The page's files, the folder as a whole, and the server on loopback."""

from __future__ import annotations

import re
import urllib.request
from pathlib import Path

import pytest

from gsd_cli.base.errors import ExitCode, GsdError
from gsd_cli.core.explorer.folder import PAGE, page_files, require_own_folder
from gsd_cli.core.explorer.serve import serving


def test_the_page_is_small() -> None:
    assert {path.name for path in PAGE.iterdir()} == set(page_files())
    assert sum((PAGE / name).stat().st_size for name in page_files()) < 100_000


@pytest.mark.parametrize("name", page_files())
def test_the_page_names_no_other_place(name: str) -> None:
    text = (PAGE / name).read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?://|//[a-z]+\.[a-z]", text)
    assert not re.search(r"""(src|href)=["']/""", text)


def test_every_file_that_is_named_is_there() -> None:
    for name in page_files():
        text = (PAGE / name).read_text(encoding="utf-8")
        named = re.findall(
            r"""(?:from|src =|src=|href=|register\(|new URL\() ?["'](?:\./)?([\w-]+\.(?:js|css))["']""", text
        )
        assert set(named) <= set(page_files()), name


def test_a_folder_with_other_files_is_kept(tmp_path: Path) -> None:
    require_own_folder(tmp_path / "new")
    require_own_folder(tmp_path)
    (tmp_path / "thesis.tex").write_text("all of it")
    with pytest.raises(GsdError, match="other files") as caught:
        require_own_folder(tmp_path)
    assert caught.value.code == ExitCode.INPUT
    (tmp_path / "model.json").write_text("{}")
    require_own_folder(tmp_path)


def test_the_server_names_types_and_isolates_the_page(tmp_path: Path) -> None:
    types = {
        "a.html": "text/html",
        "a.mjs": "text/javascript",
        "a.wasm": "application/wasm",
        "a.json": "application/json",
    }
    for name in types:
        (tmp_path / name).write_text("x")
    with serving(tmp_path) as url, serving(tmp_path) as other:
        assert url.startswith("http://127.0.0.1:") and url != other
        for name, kind in types.items():
            with urllib.request.urlopen(url + name) as answer:
                assert answer.headers["Content-Type"] == kind
                assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
                assert answer.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(url + "../secret")
