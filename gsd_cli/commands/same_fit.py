"""What a network that gsd prepare trains is trained on and with: a run goes on only with the same."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from gsd_cli.base.atomic import write_json
from gsd_cli.base.errors import UsageError
from gsd_cli.base.session import Session
from gsd_cli.base.storage import read_object
from gsd_cli.compute.distributed import World
from gsd_cli.data.dataset import ImageArchive

RECORD = "fit.json"
FACTS = ("images", "size", "channels", "mean", "variance", "classes", "attributes")
"""The entries of a data set's record that depend on its images and labels."""
DATA = "data"
"""The entry of the record for the images."""


def require_same_fit(
    work: Path, trained: Path, asked: dict[str, Any], data: ImageArchive, session: Session, *, force: bool,
    world: World | None = None,
) -> None:  # fmt: skip
    """Keep in the folder `work` what is trained there. Training stopped earlier goes on if it is the same.

    trained: the folder of the result. asked: the settings that make another network, by flag. force: of other images,
    remove `work` and `trained`, so that training starts again. Raises UsageError where something else is kept there.
    All processes of `world` must call this together.
    """
    world = world or World()
    path, now = work / RECORD, asked | {DATA: _mark(data)}
    kept = read_object(path) if path.exists() else {}
    differ = [key for key in now if kept.get(key, now[key]) != now[key]]
    other_images = DATA in differ and not force
    flags = [f"{key} {kept[key]}, now {now[key]}" for key in differ if key != DATA]
    problems = [f"{work} was begun with other options: {', '.join(flags)}"] if flags else []
    problems += [f"{work} was begun with other images than those in {data.path}"] if other_images else []
    if problems:
        hint = f"remove {work} and {trained}, or choose another name with -o"
        raise UsageError(problems, hint="add --force to train again" if other_images and not flags else hint)
    if world.main:
        if DATA in differ:
            session.say(f"{trained} was trained on other images: it is trained again")
            shutil.rmtree(work)
            shutil.rmtree(trained, ignore_errors=True)
        if DATA in differ or not path.exists():
            work.mkdir(parents=True, exist_ok=True)
            write_json(path, now)
    world.wait()


def _mark(data: ImageArchive) -> str:
    """A fingerprint of a data set, from its record: a data set that is prepared again has the same."""
    facts = {key: data.record.get(key) for key in FACTS}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
