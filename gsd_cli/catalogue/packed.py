"""Networks whose config counts the channels of packed patches and no size of the images, as FLUX's. Plain data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PACKED_CLASS = "FluxTransformer2DModel"
PATCH = 2
"""The side of a patch of latent pixels, which the pipeline packs into one token."""
SIDE_KEY = "sample_size"
"""The key of gsd's own in a config: the side of the latents."""
USUAL_SIDE = 128
"""The side of the latents where the config names none, as in FluxPipeline: images of 1024 x 1024 pixels."""


def latent_shape(config: Mapping[str, Any]) -> tuple[int, int, int]:
    """(C, H, W) of the latents of a usable network."""
    side = int(config.get(SIDE_KEY) or USUAL_SIDE)
    return int(config.get("in_channels", 64)) // PATCH**2, side, side
