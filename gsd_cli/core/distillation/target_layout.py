"""What the forms `borders` and `cells` know of images and latents: fitted once, kept in checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from gsd_cli.compute.device import full_precision
from gsd_cli.compute.random import generator_for, normal_rows
from gsd_cli.core.distillation.cells import coarse, coarse_factor, fit_anchors, fit_biases, soft_cells
from gsd_cli.core.distillation.clusters import CLUSTERS, fit_centres, fit_temperature, shares
from gsd_cli.core.distillation.losses import log_memberships
from gsd_cli.core.distillation.real_images import RealImages
from gsd_cli.core.models.feature_maps import FeatureMap

IMAGES = 4096
FLOATS = 2**27
"""Feature values kept in memory while a layout is fitted; fewer images where there would be more."""
PREFIX = "layout/"


@dataclass(frozen=True)
class Layout:
    """The clusters of images, and for `cells` the cells of latents that are to hold them.

    centres: [K, F]; temperature: []; anchors: [K, D], of `coarse` latents; biases: [classes or 1, K].
    """

    centres: Tensor
    temperature: Tensor
    anchors: Tensor | None = None
    biases: Tensor | None = None

    def log_memberships(self, features: Tensor) -> Tensor:
        """Of images, in clusters: [..., K], from features [..., F]."""
        return log_memberships(features, self.centres, self.temperature)

    def targets(self, z: Tensor, labels: Tensor | None) -> Tensor:
        """Of latents z [P, C, H, W] with classes int64 [P] or None, in cells: [P, K], sums of 1."""
        assert self.anchors is not None and self.biases is not None
        biases = self.biases if labels is None or len(self.biases) == 1 else self.biases[labels]
        return soft_cells(coarse(z.float()) @ self.anchors.mT, biases)

    def map(self, change: Callable[[Tensor], Tensor]) -> Layout:
        """The layout with each of its tensors changed."""
        return Layout(**{name: change(value) for name, value in self._named()})

    def tensors(self) -> dict[str, Tensor]:
        """Its tensors as a checkpoint has them."""
        return {PREFIX + name: value for name, value in self._named()}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor], device: torch.device) -> Layout | None:
        """What `tensors` gave; None where a checkpoint has none."""
        names = [field.name for field in fields(cls) if PREFIX + field.name in tensors]
        return cls(**{name: tensors[PREFIX + name].to(device) for name in names}) if names else None

    def _named(self) -> list[tuple[str, Tensor]]:
        pairs = [(field.name, getattr(self, field.name)) for field in fields(self)]
        return [(name, value) for name, value in pairs if value is not None]


@dataclass(frozen=True)
class Sources:
    """What a layout is fitted to: a feature map, a generator of images for latents of `shape` (and for classes),
    and real images if there are some."""

    phi: FeatureMap
    generator: Callable[[Tensor, Tensor | None], Tensor]
    shape: tuple[int, int, int]
    classes: int | None
    device: torch.device
    data: RealImages | None = None

    @property
    def real(self) -> RealImages | None:
        """The data, where images are what the generator makes and have the classes it asks for."""
        if self.data is None or tuple(self.data.shape) != self.shape:
            return None
        labels = self.data.labels if self.classes else None
        fits = not self.classes or (labels is not None and labels.ndim == 1 and int(labels.max()) < self.classes)
        return self.data if fits else None


@dataclass(frozen=True)
class _Seen:
    """Images as the fit sees them: features [N, F]; classes [N]; of generated ones, coarse latents [N, D]."""

    features: Tensor
    labels: Tensor | None = None
    coarse: Tensor | None = None


@torch.no_grad()
def fit_layout(sources: Sources, seed: int, chunk: int, *, cells: bool) -> Layout:
    """A layout as a function of the seed, the generator and the data; `chunk`: images at a time.

    Clusters are those of real images where there are some, else of generated ones.
    """
    with full_precision(sources.device):
        made = _gather(_generated(sources, seed, chunk)) if cells or sources.real is None else None
        known = made if sources.real is None else _gather(_real(sources, sources.real, seed, chunk))
        assert known is not None
        # a regular simplex of K corners has K - 1 dimensions
        count = min(CLUSTERS, len(coarse_factor(sources.shape)) + 1)
        centres = fit_centres(known.features, count, generator_for(seed, "layout").initial_seed() % 2**32)
        layout = Layout(centres, fit_temperature(known.features, centres))
        if not cells:
            return layout
        assert made is not None and made.coarse is not None
        q = layout.log_memberships(made.features).exp()
        anchors = fit_anchors(q, made.coarse, coarse_factor(sources.shape).to(q))
        wanted = shares(layout.log_memberships(known.features).exp(), known.labels, sources.classes)
        return replace(layout, anchors=anchors, biases=fit_biases(wanted, seed).to(q))


def _gather(parts: Iterator[_Seen]) -> _Seen:
    """As many images as memory allows, IMAGES at most."""
    seen: list[_Seen] = []
    count, limit = 0, IMAGES
    for part in parts:
        seen.append(part)
        count, limit = count + len(part.features), min(IMAGES, max(CLUSTERS**2, FLOATS // part.features.shape[1]))
        if count >= limit:
            break
    labels = [part.labels for part in seen if part.labels is not None]
    values = [part.coarse for part in seen if part.coarse is not None]
    return _Seen(
        torch.cat([part.features for part in seen])[:limit],
        torch.cat(labels)[:limit] if labels else None,
        torch.cat(values)[:limit] if values else None,
    )


def _real(sources: Sources, data: RealImages, seed: int, chunk: int) -> Iterator[_Seen]:
    order = torch.randperm(len(data), generator=generator_for(seed, "layout", "real"))
    for indices in order.split(chunk):
        labels = data.labels[indices].to(sources.device) if sources.classes and data.labels is not None else None
        yield _Seen(sources.phi(data.batch(indices).to(sources.device)), labels)


def _generated(sources: Sources, seed: int, chunk: int) -> Iterator[_Seen]:
    drawn = torch.randint(sources.classes or 1, (IMAGES,), generator=generator_for(seed, "layout", "class"))
    for rows in torch.arange(IMAGES).split(chunk):
        z = normal_rows(rows.tolist(), sources.shape, seed, "layout", "z").to(sources.device)
        labels = drawn[rows].to(sources.device) if sources.classes else None
        yield _Seen(sources.phi(sources.generator(z, labels).float()), labels, coarse(z))
