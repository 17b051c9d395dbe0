"""The images of a model card: samples, and walks between them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gsd_cli.catalogue.model_facts import describe_calls
from gsd_cli.compute.random import latents
from gsd_cli.core.latents.inversion import encoder_features
from gsd_cli.core.latents.render import render
from gsd_cli.core.latents.walks import walk
from gsd_cli.core.models.generator import Generator
from gsd_cli.core.sampling.images import sample
from gsd_cli.data.pixels import save_grid

SIDE = 512
"""Pixels per side up to which a grid of samples is enlarged."""
MANY, FEW, SMALL = 64, 16, 64
"""Samples in the grid of a model with images of up to SMALL pixels per side, and of larger ones."""
WALKS, FRAMES = 3, 9


@dataclass(frozen=True)
class CardImage:
    """An image file in the folder of a model card, by its path there, and what it shows."""

    name: str
    caption: str


def draw_images(generator: Generator, folder: Path, batch_size: int) -> list[CardImage]:
    """Write images/samples.png and images/walk.png into `folder`."""
    size = generator.image_shape[-1]
    count = MANY if size <= SMALL else FEW
    images = torch.stack([image for _, image in sample(generator, range(count), batch_size)])
    scale = max(1, SIDE // (size * round(count**0.5)))
    save_grid(images, folder / "images" / "samples.png", scale=scale)
    rows = [_walk(generator, 2 * k, 2 * k + 1, batch_size) for k in range(WALKS)]
    save_grid(torch.cat(rows), folder / "images" / "walk.png", columns=FRAMES, scale=max(1, SMALL // size))
    return [
        CardImage(
            "images/samples.png", f"{count} images, seeds 0 to {count - 1}, {describe_calls(generator.calls)} each"
        ),
        CardImage("images/walk.png", f"{WALKS} walks between two seeds in {FRAMES} steps of equal perceptual length"),
    ]


def _walk(generator: Generator, first: int, last: int, batch_size: int) -> Tensor:
    """Images [FRAMES, C, H, W] between two seeds. A conditional generator has its first condition throughout."""
    start, end = latents([first, last], generator.latent_shape)
    features = encoder_features(generator)
    return walk(
        start,
        end,
        FRAMES,
        "uniform",
        lambda z, s: render(generator, z, batch_size=batch_size),
        lambda images: features(images.to(generator.device)),
    ).images
