"""How good an edit is: success, leakage, monotonicity, and how much of the image's identity is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from gsd_cli.compute.random import latents
from gsd_cli.core.editing.direction import Direction
from gsd_cli.core.editing.known_attributes import TRAITS, Knowledge
from gsd_cli.core.editing.response import Measure, respond
from gsd_cli.core.editing.supervised import Attribute, fit, gather, mean_gradients
from gsd_cli.core.latents.inversion import encoder_features
from gsd_cli.core.models.generator import Generator, Model

STRENGTHS = (-2.0, -1.0, 0.0, 1.0, 2.0)
SIGNED_STRENGTHS = (0.0, 1.0, 2.0, 3.0, 4.0)
FIT_SAMPLES = 512
"""Samples that directions are fitted on; gradients are averaged over a tenth of them."""


def edit_figures(
    generator: Generator, direction: Direction, target: Attribute, traits: Sequence[Attribute],
    deviations: Mapping[str, float], z: Tensor, knowledge: Knowledge, batch_size: int = 64,
) -> dict[str, float]:  # fmt: skip
    """Edit latents z [n, C, H, W] at several strengths and measure.

    success: for a signed attribute the share of images without it that get it at some strength up to 4; else the mean
    change over the change that was asked for, cut to [0, 1]. leakage: the mean change of the other traits over that of
    the target; leakage_each: the same with the sizes of the changes of single images. monotonicity: Spearman
    correlation of strength and attribute. feature_distance: squared distance from the unedited image at strength 2.
    class_kept: the share of images whose class by the classifier stays, over strengths other than 0 (absent without a
    classifier). auroc: of a linear probe along the direction.
    """
    names = [t.name for t in traits]
    measures: dict[str, Measure] = {t.name: t.score for t in traits} | {target.name: target.score}
    measures["features"] = encoder_features(generator)
    if knowledge.classifier is not None:
        measures["class"] = knowledge.classifier
    strengths = SIGNED_STRENGTHS if target.signed else STRENGTHS
    seen = respond(generator, direction, z, strengths, measures, deviations, batch_size)
    figures = {
        "auroc": direction.figures.get("auroc", float("nan")),
        "success": seen.reached(target.name) if target.signed else seen.achieved(target.name),
        "leakage": seen.leakage(target.name, names),
        "leakage_each": seen.leakage(target.name, names, each=True),
        "monotonicity": seen.monotonicity(target.name),
        "feature_distance": seen.distance("features")[strengths.index(2.0)].square().mean().item(),
    }
    if "class" in measures:
        same = seen.values["class"].argmax(2) == seen.base["class"].argmax(1)
        moved = [k for k, s in enumerate(strengths) if s]
        figures["class_kept"] = same[moved].double().mean().item()
    return figures


def measure_edits(
    model: Model, images: int, batch_size: int, on_attribute: Callable[[int], None] = lambda done: None
) -> dict[str, dict[str, float]]:
    """The figures of `edit_figures` by attribute, each attribute edited on `images` of the generator's own samples.

    The attributes are those with a formula: brightness, contrast, width, height and symmetry. One that no direction
    changes is absent. Directions are fitted as `gsd edit` fits them. on_attribute counts attributes.
    """
    generator, knowledge = model.generator, Knowledge(model)
    pool = gather(generator, TRAITS, batch_size, FIT_SAMPLES)
    gradients = mean_gradients(generator, TRAITS, batch_size, FIT_SAMPLES // 10)
    z = latents(range(images), generator.latent_shape, "edited")
    figures = {}
    for done, target in enumerate(TRAITS, 1):
        directions = fit(generator, target, TRAITS, pool, gradients, batch_size)
        if directions:
            figures[target.name] = edit_figures(
                generator, directions[0], target, TRAITS, pool.deviations(), z, knowledge, batch_size
            )
        on_attribute(done)
    return figures
