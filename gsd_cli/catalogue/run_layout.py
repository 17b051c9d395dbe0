"""The names of the files and folders that gsd writes: in a run, in a folder of a model, and next to a data set."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from gsd_cli.base.errors import GsdError
from gsd_cli.base.storage import ASSETS
from gsd_cli.catalogue.diffusers_layout import locate_model

# -- in a run of gsd distill (and in the work folder of a training of gsd prepare) --------------

GENERATOR = "generator"
"""The folder of the newest generator: the moving average at the end of the run."""
BEST = "best"
"""The folder of the generator with the smallest Frechet distance so far."""
HUB = "hub"
"""The folder that `--push-to-hub` prepares: the generator with a model card and images for the hub."""
CHECKPOINTS = "checkpoints"
"""Folders step-00001000/, from which a run resumes."""
GRIDS = "samples"
"""Tiled images step-0001000.png, one per evaluation."""
METRICS_LOG = "metrics.jsonl"
CURVES = "curves.png"
OPTIONS = "options.json"
"""The options that the run was started with: a resumed run must agree with them."""


def run_name(path: str) -> str:
    """The last part of the path of a run or a generator: `pets` of a/pets/generator, `pets/best` of a/pets/best."""
    place = Path(path)
    if place.name == GENERATOR and place.parent.name:
        place = place.parent
    return f"{place.parent.name}/{BEST}" if place.name == BEST and place.parent.name else place.name or path


def checkpoint_name(step: int) -> str:
    """The folder of one checkpoint, inside CHECKPOINTS; names sort by step."""
    return f"step-{step:08d}"


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder CHECKPOINTS, the oldest first."""
    return sorted(folder.glob("step-*"))


def grid_name(step: int) -> str:
    """The tiled image of one evaluation, inside GRIDS; names sort by step."""
    return f"step-{step:07d}.png"


def last_grid(run: Path) -> Path | None:
    """The tiled image of a run's last evaluation; None before the first."""
    return max((run / GRIDS).glob("*.png"), default=None)


# -- in the folder of a generator, of a teacher or of features ----------------------------------

CARD = "gsd.json"
"""What gsd notes of a model or a data set."""
ADAPTERS = "pytorch_lora_weights.safetensors"
"""The adapters of a generator that was trained with --adapters, under the name that diffusers looks for."""
README = "README.md"
LATER = "later"
"""The folder of the network that makes a generator's calls after the first, where that is another one."""
PROMPTS = "prompts.safetensors"
"""Some of the prompts that a text-conditional generator was trained with, encoded."""
FEATURE_WEIGHTS = "features.safetensors"
FEATURE_STATISTICS = "train.npz"
"""Statistics of the real images that bundled features were trained on."""
DIRECTIONS = "directions"
"""The folder of editing directions, in a generator's folder and in the cache: one file per attribute."""

# -- in a prepared data set ---------------------------------------------------------------------

DATASET_INDEX = "dataset.json"
"""EDM's list of labels; gsd's own record of the data set is its CARD."""

# -- next to a prepared data set DATA.zip -------------------------------------------------------

DATA_SUFFIX = ".zip"
TEACHER_SUFFIX = "-teacher"
PROMPTS_SUFFIX = "-prompts.safetensors"
FEATURES_SUFFIXES = {"residual": "-features", "convnext": "-features-2"}
"""By the network of --features-net."""
HELD_OUT_SUFFIX = "-test.zip"
"""Images that were held out of the training of features."""


_BUNDLED = "features-"


def next_to_data(data: Path, suffix: str) -> Path:
    """DATA with `suffix` in place of its extension; data may be a folder, also `.` and `..`."""
    whole = Path(os.path.abspath(data)) if data.name in ("", "..") else data
    return whole.with_name((whole.name if whole.is_dir() else whole.stem) + suffix)


def statistics_path(data: Path, extractor: str) -> Path:
    """The statistics of a data set, measured with these features: DATA.<extractor>.npz."""
    return next_to_data(data, f".{extractor}.npz")


def next_to_teacher(teacher: str | Path, suffix: str) -> Path | None:
    """What `gsd prepare` wrote next to a teacher NAME-teacher that it trained: NAME.zip, or NAME-features.

    teacher: as `locate_model` takes it. None where there is no such file, or the teacher is not a folder of that name.
    """
    folder = Path(teacher)
    with suppress(GsdError):  # reported when the teacher is opened
        folder = locate_model(folder).folder if folder.exists() else folder
    folder = folder.resolve()
    if not folder.is_dir() or not folder.name.endswith(TEACHER_SUFFIX):
        return None
    found = folder.with_name(folder.name.removesuffix(TEACHER_SUFFIX) + suffix)
    return found if found.exists() else None


def statistics_of_features(folder: Path, extractor: str) -> Path | None:
    """The statistics of real images that belong to a feature set: in its folder, or next to it; None without any."""
    data = re.sub(r"-features(-\d+)?$", "", folder.resolve().name)
    places = (folder / FEATURE_STATISTICS, folder.resolve().with_name(f"{data}.{extractor}.npz"))
    return next((place for place in places if place.exists()), None)


def features_name(folder: Path) -> str:
    """The name of a feature set, from its folder: toy for toy-features, toy-2 for toy-features-2 and features-toy-2."""
    return re.sub(r"-features(?=(-\d+)?$)", "", folder.resolve().name.removeprefix(_BUNDLED))


def bundled_features_folder(name: str) -> Path:
    """The folder of a bundled feature set; it need not exist."""
    return ASSETS / f"{_BUNDLED}{name}"


# -- what a command shows -----------------------------------------------------------------------

SHOWN_SUFFIXES = (".png", ".gif", ".jpg", ".webp")


def image_to_show(outputs: list[str]) -> Path | None:
    """The image that --show draws, from the paths a command wrote: the first image, or the last grid of a run."""
    for output in map(Path, outputs):
        if output.suffix.lower() in SHOWN_SUFFIXES and output.is_file():
            return output
        grid = last_grid(output.parent) if output.name == GENERATOR else None
        if grid is not None:
            return grid
    return None
