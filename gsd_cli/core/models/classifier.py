"""Save and load small image classifiers: the feature extractors of domains that Inception does not know."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from gsd_cli.base.atomic import write_json
from gsd_cli.base.errors import GsdError
from gsd_cli.base.storage import read_object
from gsd_cli.catalogue.run_layout import CARD, FEATURE_WEIGHTS
from gsd_cli.core.models.feature_nets import ARCHITECTURES, FeatureNet, read_sizes


def save_features(net: FeatureNet, folder: Path, card: dict[str, Any]) -> None:
    """Write weights (as float16) and card into an existing folder."""
    tensors = net.state_dict()
    save_file(
        {k: v.half().contiguous() if v.is_floating_point() else v for k, v in tensors.items()}, folder / FEATURE_WEIGHTS
    )
    channels, classes = read_sizes(tensors)
    write_json(folder / CARD, {**card, "architecture": net.architecture, "channels": channels, "classes": classes})


def load_features(folder: Path) -> FeatureNet:
    """Read what `save_features` wrote, in eval mode, frozen. Raises GsdError (exit 3)."""
    card = read_object(folder / CARD)
    # the first feature sets had one architecture and did not name it
    architecture = card.get("architecture", "residual")
    if not isinstance(architecture, str) or architecture not in ARCHITECTURES:
        raise GsdError(
            f"the features in {folder} are of an unknown architecture: {architecture!r}",
            hint=f"this version knows {', '.join(ARCHITECTURES)}; a newer gsd may know it",
        )
    try:
        tensors = load_file(folder / FEATURE_WEIGHTS)
        # the size comes from the weights: a damaged card could name any
        channels, classes = read_sizes(tensors)
        if (card["channels"], card["classes"]) != (channels, classes):
            raise ValueError(f"{CARD} and weights differ in channels or classes")
        net = ARCHITECTURES[architecture](channels, classes)
        net.load_state_dict(tensors)
    except (OSError, IndexError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise GsdError(
            f"cannot read the features in {folder}: {error}", hint="make them with --fit-features"
        ) from error
    return net.float().eval().requires_grad_(False)
