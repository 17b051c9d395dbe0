"""A hook of mkdocs: the built site carries the explorer of the bundled generator, under explorer/.

The folder is written to build/explorer once and copied from there, so that git holds no second copy of the model.
Without the extra `export`, or without the runtime of the browser, a page says what is missing.
"""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

from gsd_cli.base.atomic import atomic_folder
from gsd_cli.base.errors import GsdError
from gsd_cli.base.storage import ASSETS, read_object
from gsd_cli.base.versions import gsd_version

MODEL, FOLDER = "fashion", Path("build/explorer")
MISSING = """<!doctype html><meta charset="utf-8"><title>gsd explorer</title>
<p>This copy of the documentation was built without the live explorer: {why}.
<p><code>gsd edit --explore page --open</code> writes and opens it.
"""
log = logging.getLogger("mkdocs.hooks.explorer")


def on_post_build(config: Any, **_: Any) -> None:
    """Put the explorer into the built site, unless `extra: explorer: false`."""
    target = Path(config["site_dir"]) / "explorer"
    try:
        if config["extra"].get("explorer", True) is False:
            raise GsdError("it was switched off")
        if not is_current(FOLDER):
            write(FOLDER)
        shutil.copytree(FOLDER, target, dirs_exist_ok=True)
    except GsdError as error:
        log.info("the site has no live explorer: %s", error.message)
        with atomic_folder(target) as temporary:
            (temporary / "index.html").write_text(MISSING.format(why=error.message), encoding="utf-8")


def is_current(folder: Path) -> bool:
    """Whether the folder holds the page of this gsd, with this model and this page's files."""
    try:
        facts = read_object(folder / "model.json")
    except GsdError:
        return False
    card = json.loads((ASSETS / MODEL / "gsd.json").read_text(encoding="utf-8"))
    same = all((folder / path.name).read_bytes() == path.read_bytes() for path in (ASSETS / "explorer").iterdir())
    return (facts.get("gsd"), facts.get("fingerprint")) == (gsd_version(), card["weights"]) and same


def write(folder: Path) -> None:
    """Write the explorer of the bundled generator. Raises GsdError where something is missing."""
    from gsd_cli import EditOptions, edit

    edit(EditOptions(explore=folder, model=MODEL, verbose=True))
