"""Feature vectors of example images with and without an attribute, from two folders or a prepared data set."""

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
from gsd_cli.core.latents.read_image import read_image
from gsd_cli.data.dataset import ImageArchive

BATCH = 64


def read_folders(positive: Path, negative: Path, knowledge: Knowledge, session: Session) -> tuple[Tensor, Tensor]:
    """Feature vectors [N, F] of the images in each of two folders. Raises GsdError (exit 3) naming a bad file."""
    vectors = []
    for folder in (positive, negative):
        files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
        if not files:
            raise GsdError(f"{folder} has no images", hint="give images with the attribute, and others without")
        with session.progress(f"reading {folder}", len(files)) as bar:
            vectors.append(knowledge.vectors(_read_batches(files, knowledge), bar.update))
    return vectors[0], vectors[1]


def _read_batches(files: list[Path], knowledge: Knowledge) -> Iterator[Tensor]:
    for start in range(0, len(files), BATCH):
        yield torch.stack([read_image(str(file), knowledge.generator) for file in files[start : start + BATCH]])


def read_data_set(path: Path, name: str, knowledge: Knowledge, session: Session) -> tuple[Tensor, Tensor]:
    """Feature vectors [N, F] of the images in a prepared data set with a label and without it, at most MOST of each.

    Raises GsdError for a data set without labels, without this one, or with images of another shape.
    """
    archive = ImageArchive(path)
    if archive.labels is None:
        raise GsdError(f"{path} has no labels", hint="make it with: gsd prepare SOURCE --labels FILE")
    if archive.shape != knowledge.generator.image_shape:
        raise GsdError(
            f"{path} holds images of shape {archive.shape}, the model makes {knowledge.generator.image_shape}",
            hint="prepare the data with the model's --size and --grey",
        )
    has = labelled(archive.labels, archive.record, name, path)
    # evenly spaced, because the data set may be sorted by label
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
