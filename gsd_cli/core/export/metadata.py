"""What an exported file says about itself."""

from __future__ import annotations

import json
from typing import Any

from gsd_cli.base.errors import GsdError
from gsd_cli.base.storage import ASSETS
from gsd_cli.base.versions import gsd_version
from gsd_cli.catalogue.run_layout import README
from gsd_cli.core.models.edm_config import CLASS_NAMES, LICENCE
from gsd_cli.core.models.fingerprint import weights_fingerprint
from gsd_cli.core.models.generator import Model

FORMAT = "gsd-onnx/1"
UNKNOWN_LICENCE = "not stated: that of the teacher applies"


def describe_model(model: Model, precision: str, format_: str = FORMAT) -> dict[str, str]:
    """The metadata of a file exported from this model: text by name, numbers and lists as JSON."""
    generator, card = model.generator, model.folder / README
    facts: dict[str, Any] = {
        "latent_shape": generator.latent_shape,
        "image_shape": generator.image_shape,
        "sigma_init": generator.sigma_init,
        "sigmas": generator.sigmas,
        "value_range": (-1, 1),
        "classes": generator.denoiser.classes,
        "class_names": model.class_names,
    }
    return {
        "format": format_,
        "gsd_version": gsd_version(),
        "name": model.name,
        "precision": precision,
        "weights_fingerprint": weights_fingerprint(model.folder),
        "teacher": str(model.card.get("teacher_source") or model.teacher or ""),
        "licence": licence_of(model),
        "features": model.features or "",
        **{name: json.dumps(value) for name, value in facts.items()},
        "model_card": card.read_text(encoding="utf-8", errors="replace") if card.is_file() else "",
    }


def licence_of(model: Model) -> str:
    """The licence of a generator's weights, if gsd knows it."""
    stated = model.card.get("licence")
    if isinstance(stated, str) and stated:
        return stated
    if model.card.get("network") in CLASS_NAMES:
        return LICENCE
    return "MIT" if model.folder.parent == ASSETS else UNKNOWN_LICENCE


def read_fact(metadata: dict[str, str], name: str, place: str) -> Any:
    """A number or list of the metadata. Raises GsdError (exit 3) where it is missing or damaged."""
    try:
        return json.loads(metadata[name])
    except (KeyError, ValueError, RecursionError) as error:
        raise GsdError(f"{place} is damaged: it names no valid {name}", hint="export it again") from error
