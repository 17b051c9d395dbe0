"""The attributes a model can edit: measured in pixels, classes, and learnt from example images."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gsd_cli.base.errors import ExitCode, GsdError
from gsd_cli.base.storage import read_json
from gsd_cli.catalogue.model_facts import classifier_classes
from gsd_cli.catalogue.run_layout import CARD, bundled_features_folder
from gsd_cli.core.editing.attributes import ATTRIBUTES
from gsd_cli.core.editing.probe import fit_probe
from gsd_cli.core.editing.supervised import Attribute
from gsd_cli.core.models.classifier import load_features
from gsd_cli.core.models.denoiser import per_image
from gsd_cli.core.models.feature_maps import FEATURE_SIGMA
from gsd_cli.core.models.feature_nets import FeatureNet
from gsd_cli.core.models.generator import Model

TRAITS = [Attribute(name, score, signed=False) for name, score in ATTRIBUTES.items()]
"""The attributes measured in pixels."""


class Knowledge:
    """The attributes of one model, and the features for learning more of them.

    classifier: the bundled classifier of the model's domain, if there is one; it gives the classes and the
    features. Without one, the features are the generator's encoder maps, averaged over positions.
    """

    def __init__(self, model: Model):
        self.generator = model.generator
        self.device = model.generator.device
        self.classifier: FeatureNet | None = None
        self.classes: tuple[str, ...] = ()
        folder = bundled_features_folder(str(model.features))
        if model.features is not None and (folder / CARD).is_file():
            self.classifier = load_features(folder).to(self.device)
            self.classes = class_names(read_json(folder / CARD), self.classifier.head.out_features)

    def built_in(self) -> list[Attribute]:
        """The attributes measured in pixels, then the classes."""
        return [*TRAITS, *(self._class(k, name) for k, name in enumerate(self.classes))]

    def _class(self, k: int, name: str) -> Attribute:
        net = self.classifier
        assert net is not None
        return Attribute(name, lambda images: margin(net(images), k), signed=True)

    def features(self, images: Tensor) -> Tensor:
        """Images [B, C, H, W], on the model's device, to vectors [B, F]."""
        if self.classifier is not None:
            return self.classifier.features(images)
        code = self.generator.autoencoder.encode(images)
        maps = self.generator.denoiser.encode(code, per_image(FEATURE_SIGMA, code))
        return torch.cat([m.mean((2, 3)) for m in maps], 1)

    @torch.no_grad()
    def vectors(self, batches: Iterable[Tensor], on_image: Callable[[int], None] = lambda done: None) -> Tensor:
        """Feature vectors [N, F] of batches of images, on the CPU."""
        found, done = [], 0
        for batch in batches:
            found.append(self.features(batch.to(self.device)).float().cpu())
            done += len(batch)
            on_image(done)
        return torch.cat(found) if found else torch.empty(0, 1)

    def learn(self, name: str, positive: Tensor, negative: Tensor) -> tuple[Attribute, float]:
        """An attribute learnt from feature vectors [N, F] of images with it and without it, and the probe's AUROC."""
        probe = fit_probe(self.features, positive, negative, name)
        return Attribute(name, probe, signed=True), probe.auroc


def margin(logits: Tensor, k: int) -> Tensor:
    """The log-odds of class k against the others [B], from logits [B, K]: positive where it is more likely than not."""
    others = torch.cat([logits[:, :k], logits[:, k + 1 :]], 1)
    return logits[:, k] - others.logsumexp(1)


def class_names(card: dict[str, Any], count: int) -> tuple[str, ...]:
    """The names of a classifier's classes; class0, class1, ... if they are unknown."""
    names = classifier_classes(card)
    return names if len(names) == count else tuple(f"class{k}" for k in range(count))


def labelled(labels: Tensor, record: dict[str, Any], name: str, where: Path) -> Tensor:
    """Whether each image of a prepared data set has a class or an attribute, by name: bool [N].

    labels: int64 [N] or bool [N, A]. Raises GsdError (exit 2) naming what there is.
    """
    if labels.ndim == 2:
        known = list(record.get("attributes") or (f"attribute{i}" for i in range(labels.shape[1])))
        if name in known:
            return labels[:, known.index(name)]
    else:
        known = list(record.get("classes") or (f"class{i}" for i in range(int(labels.max()) + 1)))
        if name in known:
            return labels == known.index(name)
    raise GsdError(f"{where} has no labels called {name!r}", hint=", ".join(map(str, known)), code=ExitCode.USAGE)
