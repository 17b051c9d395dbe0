"""Edits solved for an image: the target is reached, the rest is kept. The generator is a smooth map of its own."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from gsd_cli.compute.random import latents
from gsd_cli.core.editing.known_attributes import TRAITS
from gsd_cli.core.editing.measured_edit import Goal, solve_edits

DEVIATIONS = {"brightness": 0.1, "contrast": 0.1, "width": 0.1, "height": 0.1, "symmetry": 0.3}
SHAPE = (1, 12, 12)


def draw(z: Tensor) -> Tensor:
    """A smooth image of a latent: its blur, squashed."""
    return torch.nn.functional.avg_pool2d(z, 3, 1, 1, count_include_pad=False).mul(2).tanh()


def features(images: Tensor) -> Tensor:
    return torch.nn.functional.avg_pool2d(images, 4).flatten(1)


def goal(name: str) -> Goal:
    target = next(t for t in TRAITS if t.name == name)
    return Goal(target, [t for t in TRAITS if t.name != name], DEVIATIONS, features)


def changes(z: Tensor, found: Tensor) -> dict[str, Tensor]:
    """The change of each attribute in standard deviations."""
    return {t.name: (t.score(draw(found)) - t.score(draw(z))) / DEVIATIONS[t.name] for t in TRAITS}


@pytest.mark.parametrize("name", DEVIATIONS)
def test_each_image_reaches_its_own_strength_and_keeps_the_rest(name: str) -> None:
    z = latents([1, 2, 3, 4], SHAPE)
    strengths = [1.0, -1.0, 0.5, 2.0]
    found = solve_edits(draw, z, strengths, goal(name))
    changed = changes(z, found)
    torch.testing.assert_close(changed.pop(name), torch.tensor(strengths), atol=0.25, rtol=0)
    assert torch.stack(list(changed.values())).abs().mean() < 0.3
    torch.testing.assert_close(found.flatten(1).norm(dim=1), z.flatten(1).norm(dim=1))


def test_an_edit_does_not_depend_on_the_others_in_its_batch() -> None:
    z = latents([1, 2], SHAPE)
    together = solve_edits(draw, z, [1.0, -1.0], goal("width"), steps=10)
    torch.testing.assert_close(
        together[:1], solve_edits(draw, z[:1], [1.0], goal("width"), steps=10), atol=1e-4, rtol=0
    )


def test_a_preserved_attribute_changes_less() -> None:
    z = latents([1, 2, 3, 4], SHAPE)
    plain = goal("brightness")
    strict = replace(plain, preserved=frozenset({"contrast"}))
    moved = [changes(z, solve_edits(draw, z, [2.0] * 4, g))["contrast"].abs().mean() for g in (plain, strict)]
    assert moved[1] < 0.5 * moved[0] + 0.02


def test_the_class_is_kept_where_a_classifier_sees_it() -> None:
    z = latents(range(8), SHAPE)

    def classifier(images: Tensor) -> Tensor:
        shade = 20 * (images[:, 0, :4].mean((1, 2)) - draw(z)[:, 0, :4].mean())
        return torch.stack([shade, -shade], 1)

    plain = goal("brightness")
    before = classifier(draw(z)).argmax(1)
    kept = [
        (classifier(draw(solve_edits(draw, z, [2.0] * 8, g))).argmax(1) == before).float().mean()
        for g in (replace(plain, kept=[]), replace(plain, kept=[], classifier=classifier))
    ]
    assert kept[0] < kept[1] == 1
