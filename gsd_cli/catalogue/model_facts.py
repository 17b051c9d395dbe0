"""What the JSON files of a generator say: its classes, the shape of its latents, what it can edit. Needs no torch."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from gsd_cli.base.errors import GsdError
from gsd_cli.base.storage import read_object
from gsd_cli.catalogue.diffusers_layout import locate_model
from gsd_cli.catalogue.find import find_model, read_card
from gsd_cli.catalogue.packed import PACKED_CLASS, latent_shape
from gsd_cli.catalogue.registry import MEASURED_ATTRIBUTES
from gsd_cli.catalogue.run_layout import (
    CARD,
    DATA_SUFFIX,
    DIRECTIONS,
    bundled_features_folder,
    next_to_teacher,
)

COMPONENTS = "components"
"""The stored principal components: no attribute."""
COMPONENT_COUNT = 16
"""The number of directions pc0, pc1, ... and of jac0, jac1, ..."""
UNCONDITIONAL = 0


@dataclass(frozen=True)
class ModelFacts:
    """The card and the network's config of a generator folder."""

    folder: Path
    card: dict[str, Any]
    config: dict[str, Any]

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of its classes, if they are known."""
        return tuple(self.card.get("classes") or ())

    @property
    def class_count(self) -> int | None:
        """The number of classes it is conditioned on, UNCONDITIONAL, or None where the config does not say."""
        for key in ("num_class_embeds", "num_embeds_ada_norm"):
            if isinstance(count := self.config.get(key), int):
                return count
        return UNCONDITIONAL if self.config.get("_class_name") == "UNet2DModel" else None

    @property
    def latent_shape(self) -> tuple[int, ...] | None:
        """(C, H, W) of its latents; None where the config does not say."""
        if self.config.get("_class_name") == PACKED_CLASS:
            return latent_shape(self.config)
        channels, size = self.config.get("in_channels"), self.config.get("sample_size")
        if isinstance(channels, int) and isinstance(size, int):
            return channels, size, size
        return None

    @property
    def domain_classes(self) -> tuple[str, ...]:
        """The classes that the bundled classifier of its domain knows; () without one."""
        return classifier_classes(_read(bundled_features_folder(str(self.card.get("features"))) / CARD))

    @property
    def attributes(self) -> tuple[str, ...]:
        """What `--attribute` can name without examples: measured in pixels, classes, and stored with the model."""
        stored = stored_directions(self.folder / DIRECTIONS)
        return tuple(dict.fromkeys([*MEASURED_ATTRIBUTES, *self.domain_classes, *stored]))

    @property
    def data(self) -> Path | None:
        """The data set next to the teacher that `gsd prepare` trained, if it is still there."""
        teacher = self.card.get("teacher")
        return next_to_teacher(teacher, DATA_SUFFIX) if teacher else None


def classifier_classes(card: dict[str, Any]) -> tuple[str, ...]:
    """The names of the classes that a classifier's card names; class0, class1, ... where it says only how many."""
    data = card.get("data")
    names = (data.get("classes") if isinstance(data, dict) else None) or card.get("classes")
    if isinstance(names, int):
        return tuple(f"class{k}" for k in range(names))
    return tuple(map(str, names)) if isinstance(names, list) else ()


def model_facts(spec: str | None) -> ModelFacts:
    """The facts of the model that `--model` names. Raises GsdError (exit 3) where it is missing or its card damaged."""
    folder = find_model(spec)
    return ModelFacts(folder, read_card(folder), _read_config(folder))


def stored_directions(*folders: Path) -> Iterator[str]:
    """The names of the attributes whose directions are stored in these folders."""
    for folder in folders:
        for path in sorted(folder.glob("*.safetensors")):
            if (name := unquote(path.stem)) != COMPONENTS:
                yield name


def data_labels(data: Path) -> tuple[str, ...] | None:
    """The names of the labels in a prepared data set; () if it has none, None where its record cannot be read."""
    try:
        if data.is_dir():
            record = _read(data / CARD)
        elif data.suffix == ".zip":
            with zipfile.ZipFile(data) as archive:
                record = json.loads(archive.read(CARD))
        else:
            record = _read(data)
        return tuple(map(str, record.get("attributes") or record.get("classes") or ()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError, zipfile.BadZipFile):
        return None


def call_count(card: dict[str, Any]) -> int:
    """The network calls that an image takes, from the content of a generator's gsd.json."""
    sigmas = card.get("sigmas")
    return len(sigmas) if isinstance(sigmas, list) and sigmas else 1


def describe_calls(count: int) -> str:
    """`one network call`, or `4 network calls`."""
    return "one network call" if count == 1 else f"{count} network calls"


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        return _read(locate_model(folder).network / "config.json")
    except GsdError:  # reported when the model is opened
        return {}


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_object(path)
    except GsdError:  # reported when the model is opened
        return {}
