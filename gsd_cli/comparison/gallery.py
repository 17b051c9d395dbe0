"""The images that a report shows of several models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from gsd_cli.comparison.contenders import Contender
from gsd_cli.comparison.context import Context
from gsd_cli.compute.random import latents
from gsd_cli.core.latents.walks import walk
from gsd_cli.core.models.generator import Generator

SAMPLES = range(10)
WALKS, FRAMES = 4, 12


@dataclass(frozen=True)
class Gallery:
    """Images of several models, for rows below each other.

    samples: each model's images [N, C, H, W] of the same seeds, baselines first; walks: each generator's latent walks
    [frames, C, H, W] between the same latents.
    """

    samples: Mapping[str, Tensor]
    walks: Mapping[str, Sequence[Tensor]] = field(default_factory=dict)


def make_gallery(context: Context) -> Gallery:
    """Sample all contenders, and walk through the latent space of all generators."""
    return Gallery(_samples(context), _walks(context))


def _samples(context: Context) -> dict[str, Tensor]:
    """Figure 1: each baseline's samples above the model's, with the same seeds."""
    z = latents(SAMPLES, context.latent_shape)
    with context.session.progress("figure 1"):
        return {one.name: one.subject.sample(z, SAMPLES).cpu() for one in context.contenders}


def _walks(context: Context) -> dict[str, list[Tensor]]:
    """Walks between the same latents by every generator, the model's first."""
    generators = [context.ours, *(one for one in context.baselines if isinstance(one.model, Generator))]
    z = latents(range(2 * WALKS), context.latent_shape, "walk")
    pairs = list(zip(z[::2], z[1::2], strict=True))

    def walks_of(contender: Contender) -> list[Tensor]:
        def images(z: Tensor, _: Tensor) -> Tensor:
            return contender.subject.images(z)

        return [walk(a, b, FRAMES, "slerp", images, context.perceptual.embed).images.cpu() for a, b in pairs]

    with context.session.progress("latent walks"):
        return {contender.name: walks_of(contender) for contender in generators}
