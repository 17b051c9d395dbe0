"""Finding what --model, --teacher and a source of images name, without torch: a wrong name is reported at once."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gsd_cli.base.errors import GsdError
from gsd_cli.base.storage import ASSETS, RUNS, read_object
from gsd_cli.base.text import closest
from gsd_cli.catalogue.bare_files import SUFFIXES, is_bare
from gsd_cli.catalogue.diffusers_layout import PICKLE, is_pickle
from gsd_cli.catalogue.exports import is_export
from gsd_cli.catalogue.registry import BUNDLED_MODELS, DATA_SETS, TEACHERS
from gsd_cli.catalogue.run_layout import BEST, CARD, GENERATOR

_PARTS_OF_LATENT_MODELS = ("unet", "transformer", "scheduler", "vqvae", "vae")
_PARTS_OF_MODELS = (".safetensors", ".bin", ".json")
"""Suffixes of files that stand for the folder of a model that they are in."""
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def find_model(spec: str | None) -> Path:
    """The generator folder that `--model` names; None for the newest run under ./runs, else the bundled one.

    Raises GsdError (exit 3).
    """
    if spec is None:
        runs = finished_runs(RUNS)
        return runs[0] / GENERATOR if runs else ASSETS / BUNDLED_MODELS[0]
    path = Path(spec)
    if is_export(spec) and path.is_file():
        raise GsdError(
            f"{spec} is an exported file: only gsd sample and gsd interpolate run one",
            hint="give the generator's folder, with --backend onnx where onnxruntime should make the images",
        )
    place = path.parent if path.suffix in _PARTS_OF_MODELS and path.is_file() else path
    for folder in (place, place / GENERATOR):
        if (folder / CARD).is_file():
            return folder
    if spec in BUNDLED_MODELS:
        return ASSETS / spec
    if place.name in _PARTS_OF_LATENT_MODELS and (place.parent / CARD).is_file():
        return place.parent
    if path.is_dir():
        return _generator_below(path)
    if spec in TEACHERS:
        raise GsdError(
            f"{spec} is a teacher, and a generator is needed",
            hint=f"gsd distill --teacher {spec} makes one; {BUNDLED_MODELS[0]} is bundled",
        )
    near = _did_you_mean(spec, [*BUNDLED_MODELS, *map(str, finished_runs(RUNS))])
    raise GsdError(f"no such model: {spec}", hint=near or f"give a run folder or one of: {', '.join(BUNDLED_MODELS)}")


def _generator_below(folder: Path) -> Path:
    """The only generator in a folder, as of a run in the folder that an unpacked archive has around it.

    Raises GsdError (exit 3) for none and for several.
    """
    cards = [card for pattern in (f"*/{CARD}", f"*/{GENERATOR}/{CARD}") for card in folder.glob(pattern)]
    found = sorted(card.parent for card in cards if card.parent.name != BEST and _is_of_generator(card))
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(str(one) for one in found[:5])
        raise GsdError(f"{folder} holds {len(found)} models: {names}", hint="give one of them")
    hint = "give a run of gsd distill or its generator/; an unfinished run has none"
    if (folder / BEST / CARD).is_file():
        hint = f"the run is not finished; its best snapshot so far is {folder / BEST}"
    raise GsdError(f"{folder} holds no generator", hint=hint)


def _is_of_generator(card: Path) -> bool:
    """Whether a card is a generator's: teachers, features and data sets have cards too."""
    try:
        return "sigma_init" in read_object(card)
    except GsdError:
        return False


def finished_runs(*folders: Path) -> list[Path]:
    """The runs in these folders that have written a generator, the newest first."""
    cards = [path for folder in folders for path in folder.glob(f"*/{GENERATOR}/{CARD}")]
    return [card.parent.parent for card in sorted(cards, key=lambda card: -card.stat().st_mtime)]


def read_card(folder: Path) -> dict[str, Any]:
    """Read a model's gsd.json. Raises GsdError (exit 3) where it is damaged."""
    card = read_object(folder / CARD)
    words = ("teacher", "teacher_revision", "features", "name")
    whole = all(isinstance(card.get(key), str | None) for key in words)
    whole = whole and isinstance(card.get("figures", {}), dict) and isinstance(card.get("steps", 0), int)
    if not whole or not all(isinstance(name, str) for name in _list(card.get("classes"))):
        raise GsdError(f"{folder / CARD} is damaged", hint="copy the folder again, or make it again")
    return card


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [None] if value else []


def require_teacher(spec: str) -> None:
    """Raise GsdError (exit 3) where a name cannot be that of a teacher."""
    if Path(spec).suffix in (*SUFFIXES, PICKLE) and not Path(spec).exists():
        raise GsdError(f"no such file: {spec}", hint="give a file of weights, a diffusers folder or a hub id")
    if local_teacher(spec) is not None or spec in TEACHERS or (HUB_ID.fullmatch(spec) and not Path(spec).exists()):
        return
    if spec in BUNDLED_MODELS:
        raise GsdError(
            f"{spec} is a generator, and a teacher is needed",
            hint="give the teacher that it was distilled from, as in --teacher ddpm-fashion",
        )
    known = f"known names: {', '.join(TEACHERS)}; or a diffusers folder, or EDM's .pkl"
    raise GsdError(f"no such teacher: {spec}", hint=_did_you_mean(spec, TEACHERS) or known)


def local_teacher(spec: str) -> Path | None:
    """The folder of a bundled teacher, or the folder or file that a teacher is named by; None for others."""
    entry, path = TEACHERS.get(spec), Path(spec)
    if entry is not None:
        return ASSETS / spec if entry.hub is None else None
    file = (path.suffix in _PARTS_OF_MODELS and path.is_file()) or is_bare(path) or is_pickle(path)
    return path if path.is_dir() or file else None


def require_text_file(spec: str) -> None:
    """Raise GsdError (exit 3) where a file of prompts is missing."""
    if not Path(spec).is_file():
        raise GsdError(f"no such file: {spec}", hint="give a text file, one prompt per line")


def require_source(spec: str) -> None:
    """Raise GsdError (exit 3) where a name can be neither a data set's nor a path's."""
    if spec in DATA_SETS or spec.startswith("hf:") or (spec and Path(spec).exists()):
        return
    raise GsdError(
        f"no such data set or path: {spec}",
        hint=f"known names: {', '.join(DATA_SETS)}; or hf:OWNER/NAME; or give a folder, zip, tar or LMDB of images",
    )


def _did_you_mean(spec: str, known: Iterable[str]) -> str | None:
    close = closest(spec, known)
    return f"did you mean {close}?" if close else None
