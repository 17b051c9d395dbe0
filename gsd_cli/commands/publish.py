"""gsd distill --push-to-hub: prepare a finished generator for the hub and print what would go; --publish uploads it."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from gsd_cli.base.atomic import atomic_folder, write_json
from gsd_cli.base.console import Result
from gsd_cli.base.errors import GsdError
from gsd_cli.base.launcher import rank
from gsd_cli.base.session import Session
from gsd_cli.base.storage import read_object
from gsd_cli.base.table import Table
from gsd_cli.base.text import format_bytes, plural
from gsd_cli.base.versions import gsd_version
from gsd_cli.catalogue.diffusers_layout import locate_model
from gsd_cli.catalogue.find import HUB_ID, local_teacher, read_card
from gsd_cli.catalogue.registry import TEACHERS
from gsd_cli.catalogue.run_layout import CARD, CURVES, GENERATOR, HUB, PROMPTS, README
from gsd_cli.compute.device import resolve_device
from gsd_cli.core.distillation.hub_card import Publication, hub_card
from gsd_cli.core.distillation.hub_images import CardImage, draw_images
from gsd_cli.core.distillation.inputs import choose_data
from gsd_cli.core.models.generator import Model
from gsd_cli.core.models.hub_upload import upload
from gsd_cli.core.models.licence import Licence, hub_identifier, teacher_licence
from gsd_cli.core.models.open import open_model
from gsd_cli.options import DistillOptions


def publish(options: DistillOptions, run: Path, total: int | None, result: Result, session: Session) -> Result:
    """Write the folder hub/ of a run, and upload it with --publish; the result of the run with what went where.

    total: the length of the run in steps, None if it is whatever fits into --minutes. A run that has not reached it is
    left as it is. Of several processes, the first one does it.
    """
    repo = options.push_to_hub
    if repo is None or rank() != 0:
        return result
    if total is not None and (done := read_card(run / GENERATOR).get("steps", 0)) < total:
        session.warn(f"the run is not finished ({done:,} of {total:,} steps): nothing is prepared for {repo}")
        return result
    folder = run / HUB
    model = open_model(str(run / GENERATOR), resolve_device(options.device), session)
    text = _prepare(options, model, run, folder, session)
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    sizes = {name: path.stat().st_size for name, path in files.items()}
    facts: dict[str, Any] = {"repo": repo, "files": sizes, "bytes": sum(sizes.values()), "published": options.publish}
    session.say(f"{folder / README}:\n\n{text}")
    what = f"{plural(len(files), 'file')}, {format_bytes(facts['bytes'])}"
    if options.publish:
        with session.progress(f"uploading {what} to {repo}"):
            done = upload(repo, files, f"Generator distilled by gsd {gsd_version()}")
        session.say(f"published: {done.url}")
        facts |= {"url": done.url, "commit": done.commit}
    notes = [] if options.publish else [f"Nothing was uploaded. Add --publish to upload this to {repo}."]
    rows = [[name, format_bytes(size)] for name, size in sizes.items()]
    table = Table(f"{repo}: {what}", ["file", "size"], rows, notes)
    return Result([*result.outputs, str(folder)], {**result.metrics, "hub": facts}, table)


def _prepare(options: DistillOptions, model: Model, run: Path, folder: Path, session: Session) -> str:
    """Write the folder for the hub: the generator's files, its card without paths of this machine, images. Returns the
    text of the model card."""
    card, licence = without_paths(model.card), _find_licence(options, model.card, session)
    with session.progress(f"preparing {folder}"), atomic_folder(folder) as temporary:
        for path in model.folder.rglob("*"):
            if path.is_file() and path.name not in (README, CARD) and not path.name.startswith("."):
                _link(path, temporary / path.relative_to(model.folder))
        write_json(temporary / CARD, card)
        images = draw_images(model.generator, temporary, options.batch_size)
        if (run / CURVES).is_file():
            _link(run / CURVES, temporary / "images" / CURVES)
            images.append(CardImage(f"images/{CURVES}", "figures of the moving average during the training"))
        text = hub_card(card, _describe(options, model, licence, images))
        (temporary / README).write_text(text, encoding="utf-8")
    return text


def _describe(options: DistillOptions, model: Model, licence: Licence, images: list[CardImage]) -> Publication:
    assert options.push_to_hub is not None
    entry = TEACHERS.get(options.teacher)
    base = entry.hub if entry else options.teacher if local_teacher(options.teacher) is None else None
    # with images of the user's own, the teacher's data set is not what the generator was trained on
    own = choose_data(options).origin in ("given", "prepared")
    return Publication(
        options.push_to_hub, licence, images, base, entry.data_set if entry and not own else None,
        by_diffusers=_is_plain_ddpm(model), prompts=(model.folder / PROMPTS).is_file(),
    )  # fmt: skip


def _is_plain_ddpm(model: Model) -> bool:
    """Whether the generator is an unconditional UNet2DModel on pixels that predicts the noise of a DDPM."""
    with suppress(GsdError):
        files = locate_model(model.folder)
        plain = model.generator.autoencoder.net is None and model.generator.condition.none
        network = read_object(files.network / "config.json").get("_class_name")
        schedule = read_object(files.schedule) if files.schedule else {}
        ddpm = schedule.get("_class_name") == "DDPMScheduler" and schedule.get("prediction_type") == "epsilon"
        return plain and ddpm and network == "UNet2DModel" and files.network == model.folder
    return False


def _find_licence(options: DistillOptions, card: dict[str, Any], session: Session) -> Licence:
    """The licence of --license, else the teacher's; a warning where they differ, and where none is known."""
    network, revision = str(card.get("network", "")), card.get("teacher_revision")
    known = teacher_licence(options.teacher, network, revision, offline=session.offline)
    given = options.license and hub_identifier(options.license)
    if given and known and known["license"] != given:
        session.warn(f"the licence of {options.teacher} is {known['license']}, and the card says {given}")
    if not given and not known:
        session.warn(f"the licence of {options.teacher} is not known, and the card names none: give --license ID")
    return {"license": given} if given else known


def without_paths(value: Any) -> Any:
    """The content of gsd.json with the last part of every path: what is published does not show folders of this
    machine. Names on the hub stay."""
    if isinstance(value, dict):
        return {key: without_paths(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_paths(inner) for inner in value]
    if not isinstance(value, str) or not {"/", os.sep} & set(value):
        return value
    on_hub = HUB_ID.fullmatch(value) and not Path(value).exists()
    return value if on_hub else Path(value).name or value


def _link(source: Path, target: Path) -> None:
    """A file at another place too, without a copy where the file system allows it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
