"""An edit by words: the text of an image moves toward another one, and its latent stays."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from gsd_cli.core.editing.edit_image import Edited
from gsd_cli.core.latents.files import Anchor
from gsd_cli.core.latents.render import render
from gsd_cli.core.models.condition import Condition
from gsd_cli.core.models.generator import Generator


def edit_toward(
    generator: Generator, anchor: Anchor, target: Condition, strengths: Sequence[float], batch_size: int
) -> Edited:
    """Move the generator's condition, which is the text of the image, toward `target`, of one row, by each strength.

    0 is the image itself, 1 the target, and other strengths continue the straight line (`Condition.mix`). The latent,
    the tuned weights and the residual of the anchor are kept.
    """
    base, made = generator.condition.to("cpu"), []
    for part in torch.tensor(strengths).split(batch_size):
        z = anchor.z.expand(len(part), *anchor.z.shape)
        deltas = [anchor.delta] * len(part) if anchor.delta else []
        made.append(render(generator, z, deltas, None, batch_size, base.mix(target.to("cpu"), part)))
    images = torch.cat(made)
    if anchor.residual is not None:
        images = images + anchor.residual
    return Edited(images, anchor.z.expand(len(strengths), *anchor.z.shape).clone())
