"""The images that a fitted form of the isometric term (`borders`, `cells`) is fitted to.

Real images where there are some, and images of the generator with the coarse values of their latents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from gsd_cli.compute.random import generator_for, normal_rows
from gsd_cli.core.distillation.real_images import RealImages
from gsd_cli.core.models.condition import Condition
from gsd_cli.core.models.feature_maps import FeatureMap

IMAGES, FEWEST = 4096, 256
"""Images that a form is fitted to, at most and at least."""
FLOATS = 2**27
"""Feature values kept in memory during a fit; they limit the number of images."""
SIDE = 8


@dataclass(frozen=True)
class FitImages:
    """Images as a fit sees them: features [N, F]; classes int64 [N] or None; for generated ones also the coarse
    values [N, D] of their latents."""

    features: Tensor
    labels: Tensor | None = None
    coarse: Tensor | None = None


@dataclass(frozen=True)
class FitSources:
    """Where a fit takes its images from.

    phi: the feature map; generator: latents [B, *shape] and their condition to images; conditions: all that it can be
    given; data: real images, if there are any.
    """

    phi: FeatureMap
    generator: Callable[[Tensor, Condition], Tensor]
    shape: tuple[int, int, int]
    conditions: Condition
    device: torch.device
    data: RealImages | None = None

    @property
    def classes(self) -> int | None:
        """The number of the generator's classes; None without any."""
        return None if self.conditions.classes is None else len(self.conditions)

    @property
    def real(self) -> RealImages | None:
        """The data, if they have the generator's shape and, where it has classes, classes that it knows; else None."""
        if self.data is None or tuple(self.data.shape) != self.shape:
            return None
        labels = self.data.labels if self.classes else None
        fits = not self.classes or (labels is not None and labels.ndim == 1 and int(labels.max()) < self.classes)
        return self.data if fits else None

    def images(self, seed: int, chunk: int) -> FitImages:
        """Real images if there are any, else generated ones; `chunk` at a time through the networks."""
        return self.generated_images(seed, chunk) if self.real is None else self.real_images(self.real, seed, chunk)

    def real_images(self, data: RealImages, seed: int, chunk: int) -> FitImages:
        """Real images in a random order that depends on the seed."""

        def parts() -> Iterator[FitImages]:
            order = torch.randperm(len(data), generator=generator_for(seed, "layout", "real"))
            for indices in order.split(chunk):
                labels = data.labels[indices].to(self.device) if self.classes and data.labels is not None else None
                yield FitImages(self.phi(data.batch(indices).to(self.device)), labels)

        return _join(parts())

    def generated_images(self, seed: int, chunk: int) -> FitImages:
        """The generator's images of latents that depend on the seed, with coarse values; conditions are uniform."""

        def parts() -> Iterator[FitImages]:
            random = generator_for(seed, "layout", "class")
            drawn = self.conditions.draw(lambda count: torch.randint(count, (IMAGES,), generator=random))
            for rows in torch.arange(IMAGES).split(chunk):
                z = normal_rows(rows.tolist(), self.shape, seed, "layout", "z").to(self.device)
                condition = drawn.rows(rows).to(self.device)
                yield FitImages(self.phi(self.generator(z, condition).float()), condition.classes, coarse(z))

        return _join(parts())


def _join(parts: Iterator[FitImages]) -> FitImages:
    """As many images as memory allows, IMAGES at most."""
    images: list[FitImages] = []
    count, limit = 0, IMAGES
    for part in parts:
        images.append(part)
        count, limit = count + len(part.features), min(IMAGES, max(FEWEST, FLOATS // part.features.shape[1]))
        if count >= limit:
            break
    labels = [part.labels for part in images if part.labels is not None]
    values = [part.coarse for part in images if part.coarse is not None]
    return FitImages(
        torch.cat([part.features for part in images])[:limit],
        torch.cat(labels)[:limit] if labels else None,
        torch.cat(values)[:limit] if values else None,
    )


# -- coarse values of latents ----------------------------------------------------------------------


def coarse(z: Tensor) -> Tensor:
    """Means of latents z [B, C, H, W] over 8 x 8 regions, flattened: [B, D], D = 64 C, fewer if a side is below 8."""
    return F.adaptive_avg_pool2d(z, _sides(z.shape[2:])).flatten(1)


def coarse_factor(shape: tuple[int, int, int]) -> Tensor:
    """L of Cov = L L^T, the covariance of the coarse values of z ~ N(0, I) of shape (C, H, W): lower, [D, D].

    Regions overlap where 8 does not divide a side. Rows, columns and channels are independent of each other.
    """
    factor = torch.eye(shape[0], dtype=torch.float64)
    for size, side in zip(shape[1:], _sides(shape[1:]), strict=True):
        weights = F.adaptive_avg_pool1d(torch.eye(size, dtype=torch.float64)[None], side)[0]
        own = torch.linalg.cholesky(weights.mT @ weights).contiguous()
        factor = torch.kron(factor, own)
    return factor.float()


def _sides(size: tuple[int, ...] | torch.Size) -> tuple[int, int]:
    return min(SIDE, size[0]), min(SIDE, size[1])
