"""Writes the explorer's folder: the page, the exported generator, what it knows, and the runtime."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from gsd_cli.base.atomic import atomic_folder
from gsd_cli.base.errors import GsdError
from gsd_cli.base.storage import ASSETS, output_hint
from gsd_cli.core.explorer.content import GENERATOR, MODEL, NUMBERS, Content, encode_content
from gsd_cli.core.explorer.runtime import extract_runtime
from gsd_cli.core.latents.files import Anchor, save_anchors

PAGE = ASSETS / "explorer"
INDEX, RUNTIME, OWN_IMAGE = "index.html", "ort", "image.safetensors"


def page_files() -> list[str]:
    """The names of the page's own files, without those that only the browser asks for."""
    return sorted(path.name for path in PAGE.iterdir() if path.suffix in (".html", ".css", ".js"))


def require_own_folder(folder: Path) -> None:
    """Raise GsdError (exit 3) for a folder that holds something else: what is there would be replaced."""
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MODEL).is_file():
        raise GsdError(f"{folder} holds other files, and no explorer", hint=output_hint())


def write_folder(
    folder: Path, content: Content, export: Callable[[Path], object], tarball: Path, own: Anchor | None
) -> Path:
    """Write the folder whole or not at all, in place of an older explorer; returns the path of its index.html.

    export: writes the generator to a path. tarball: of onnxruntime-web. own: the latent of a person's own image.
    """
    require_own_folder(folder)
    with atomic_folder(folder) as temporary:
        for name in page_files():
            shutil.copyfile(PAGE / name, temporary / name)
        export(temporary / GENERATOR)
        facts, numbers = encode_content(content, page_files(), temporary / GENERATOR)
        (temporary / MODEL).write_bytes(facts)
        (temporary / NUMBERS).write_bytes(numbers)
        extract_runtime(tarball, temporary / RUNTIME)
        if own is not None:
            save_anchors(temporary / OWN_IMAGE, [own], content.mark)
    return folder / INDEX
