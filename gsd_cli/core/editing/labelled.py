"""Pictures with an attribute and without it, as feature vectors: from two folders, or a prepared data set."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from gsd_cli.base.errors import GsdError
from gsd_cli.base.session import Session
from gsd_cli.catalogue.file_formats import IMAGE_SUFFIXES
from gsd_cli.core.editing.known_attributes import Knowledge, labelled
from gsd_cli.core.editing.probe import MOST
from gsd_cli.core.latents.locate import read_picture
from gsd_cli.data.dataset import ImageArchive

BATCH = 64


def from_folders(positive: Path, negative: Path, knowledge: Knowledge, session: Session) -> tuple[Tensor, Tensor]:
    """Feature vectors [N, F] of the pictures of two folders. Raises GsdError (exit 3) naming a bad one."""

    vectors = []
    for folder in (positive, negative):
        files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
        if not files:
            raise GsdError(f"{folder} holds no pictures", hint="pictures with the attribute, and without it")
        with session.progress(f"reading {folder}", len(files)) as bar:
            vectors.append(knowledge.vectors(_pictures(files, knowledge), bar.update))
    return vectors[0], vectors[1]


def _pictures(files: list[Path], knowledge: Knowledge) -> Iterator[Tensor]:

    for start in range(0, len(files), BATCH):
        yield torch.stack([read_picture(str(file), knowledge.generator) for file in files[start : start + BATCH]])


def from_data(path: Path, name: str, knowledge: Knowledge, session: Session) -> tuple[Tensor, Tensor]:
    """Feature vectors [N, F] of a prepared data set's pictures with a label and without it, MOST of each."""
    archive = ImageArchive(path)
    if archive.labels is None:
        raise GsdError(f"{path} has no labels", hint="make it with: gsd prepare SOURCE --labels FILE")
    if archive.shape != knowledge.generator.image_shape:
        raise GsdError(
            f"{path} holds images of shape {archive.shape}, the model makes {knowledge.generator.image_shape}",
            hint="prepare the data with the model's --size and --grey",
        )
    has = labelled(archive.labels, archive.record, name, path)
    # spread over the whole set, which may be sorted
    sides = [torch.where(side)[0] for side in (has, ~has)]
    picked = [side[:: max(1, -(-len(side) // MOST))] for side in sides]
    vectors = []
    with session.progress(f"reading {path.name}", sum(map(len, picked))) as bar:
        for side in picked:
            before = bar.done

            def on_image(done: int, before: int = before) -> None:
                bar.update(before + done)

            vectors.append(knowledge.vectors((archive.batch(part) for part in side.split(BATCH)), on_image))
    return vectors[0], vectors[1]
