"""What edits of a generator achieve, attribute by attribute: the measurable ones, by the direction gsd edit takes."""

from __future__ import annotations

from collections.abc import Callable

from gsd_cli.compute.random import latents
from gsd_cli.core.editing.known_attributes import TRAITS, Knowledge
from gsd_cli.core.editing.supervised import fit, gather, mean_gradients
from gsd_cli.core.models.generator import Model
from gsd_cli.metrics.edit_quality import edit_figures

FIT_SAMPLES = 512
"""Samples that directions are found on; gradients are averaged over a tenth."""


def measure_edits(
    model: Model, pictures: int, batch_size: int, on_attribute: Callable[[int], None] = lambda done: None
) -> dict[str, dict[str, float]]:
    """Figures of `edit_figures` for brightness, contrast, width, height and symmetry, on so many own samples.

    By attribute; one that no direction changes is left out.
    """
    generator, knowledge = model.generator, Knowledge(model)
    pool = gather(generator, TRAITS, batch_size, FIT_SAMPLES)
    gradients = mean_gradients(generator, TRAITS, batch_size, FIT_SAMPLES // 10)
    z = latents(range(pictures), generator.latent_shape, "edited")
    found = {}
    for done, target in enumerate(TRAITS, 1):
        directions = fit(generator, target, TRAITS, pool, gradients, batch_size)
        if directions:
            found[target.name] = edit_figures(
                generator, directions[0], target, TRAITS, pool.deviations(), z, knowledge, batch_size
            )
        on_attribute(done)
    return found
