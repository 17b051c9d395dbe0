"""Does another isometric term work better? Four that are no options of `gsd distill`, for the geometry benchmark.

    python -m benchmarks.distillation.geometry_alternatives segments distill --irl speed --irl-ratio 3 -o runs/segments

Takes as long as the `gsd` command that follows the name, and writes what that command writes.

`segments`: form `speed` on the length of a path in K = 4 pieces instead of its chord. `bottleneck`: the same
form on the generator's own mid block, as Hahm et al. (ICML 2024) act on the h-space; --irl-ratio is then
the ratio of the gradients' norms at the encoder's weights. `annealed`: form `stress` from the first step on, its
strength falling linearly to nothing at half of the run: what of the layout stays? `apart`: form `stress` between every
image of the batch and its own neighbour, which the distillation does not see: four times the pairs, and a batch of
independent images.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gsd_cli.__main__ import run
from gsd_cli.core.distillation import isometric_forms
from gsd_cli.core.distillation import step as distillation
from gsd_cli.core.distillation.draws import Draws
from gsd_cli.core.distillation.isometric_forms import Form, distance, speed_loss
from gsd_cli.core.distillation.isometric_term import IsometricGradient, IsometricTerm
from gsd_cli.core.distillation.latent_pairs import LatentBatch
from gsd_cli.core.distillation.step import Batch, Distillation, Metrics
from gsd_cli.core.models.condition import UNCONDITIONAL, Condition
from gsd_cli.core.models.denoiser import per_image
from gsd_cli.core.models.sphere import angle, rotate


def _arc(features: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
    path = torch.cat([features[:1], features[2:], features[1:2]])
    arc = distance(path[1:], path[:-1]).sum(0)
    return speed_loss(arc, theta), arc / theta


class Segments(Distillation):
    """`speed` on paths of four pieces: three generator calls more a pair."""

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        if self.isometric.form is not None:
            self.isometric.form = Form(isometric_forms.FORMS["literal"].points, 2, _arc)


class Unmoved(IsometricTerm):
    """A term that places its pairs and leaves the images alone."""

    def measure(self, images: Tensor, latents: LatentBatch, condition: Condition = UNCONDITIONAL) -> IsometricGradient:
        """Nothing."""
        nothing = images.new_zeros(())
        return IsometricGradient(nothing, torch.zeros_like(images), nothing)


class Bottleneck(Distillation):
    """`speed` between latents and the mid block's activations, where the decoder is out of reach."""

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.isometric = Unmoved(self.settings, self.isometric.phi, self.isometric.total, self.world)
        self._ratio = 0.0

    def _update_generator(self, batch: Batch, step: int, skip: Tensor) -> tuple[Metrics, Tensor]:
        self._ratio = self.settings.irl_ratio * self.isometric.strength(step)
        return super()._update_generator(batch, step, skip)

    def _backward(self, batch: Batch, gradient: Tensor) -> None:
        super()._backward(batch, gradient)
        latents, denoiser = batch.latents, self.generator.denoiser
        if not latents.pairs:
            return
        x = self.generator.sigma_init * latents.z[: 2 * latents.pairs]
        maps = denoiser.encode(x, per_image(self.generator.sigma_init, x))[-1]
        h = maps.flatten(1).unflatten(0, (2, latents.pairs))
        weights = [p for p in denoiser.parameters() if p.grad is not None]
        loss = speed_loss(distance(h[0], h[1]), latents.theta).mean()
        found = torch.autograd.grad(loss, weights, allow_unused=True)
        reached = [(p.grad, g) for p, g in zip(weights, found, strict=True) if g is not None and p.grad is not None]
        norms = [torch.stack([tensors[i].norm() for tensors in reached]).norm() for i in (0, 1)]
        for grad, added in reached:
            grad.add_(added, alpha=(self._ratio * norms[0] / norms[1]).item())


class Beside(IsometricTerm):
    """Neighbours of all images of the batch, made for this term alone."""

    def make_pairs(self, z: Tensor, draws: Draws, step: int) -> LatentBatch:
        """The batch as it is, and a neighbour of every latent of it."""
        if self.form is None or self.strength(step) == 0:
            return LatentBatch(z, z[:0], torch.zeros(0, device=z.device))
        directions = draws.normal("isometric", step, 0)
        neighbours = rotate(z, directions, self.draw_angles(draws, step, len(z)))
        return LatentBatch(z, neighbours, angle(z, neighbours))


class Apart(Distillation):
    """`stress` between every image of the batch and a neighbour that the distillation does not see."""

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.isometric = Beside(self.settings, self.isometric.phi, self.isometric.total, self.world)
        if self.isometric.form is not None:
            self.isometric.form = replace(isometric_forms.FORMS["stress"], shared=1)


class Early(IsometricTerm):
    """A term whose strength falls to nothing at half of the run."""

    def strength(self, step: int) -> float:
        """Linear from 1 to 0."""
        return max(0.0, 1.0 - 2.0 * step / max(self.total, 1)) if self.form is not None else 0.0


class Annealed(Distillation):
    """`stress` at the start of the run alone."""

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.isometric = Early(self.settings, self.isometric.phi, self.isometric.total, self.world)
        if self.isometric.form is not None:
            self.isometric.form = isometric_forms.FORMS["stress"]


ALTERNATIVES: dict[str, type[Distillation]] = {
    "segments": Segments,
    "bottleneck": Bottleneck,
    "annealed": Annealed,
    "apart": Apart,
}


def main() -> None:
    """Run `gsd` with another distillation in the place of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("form", choices=ALTERNATIVES)
    parser.add_argument("command", nargs=argparse.REMAINDER, help="the words after `gsd`")
    given = parser.parse_args()
    distillation.Distillation = ALTERNATIVES[given.form]  # type: ignore[misc]
    sys.argv = ["gsd", *given.command]
    run()


if __name__ == "__main__":
    main()
