"""Training of a small image classifier, whose features measure images of a domain that Inception does not know."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gsd_cli.base.errors import GsdError
from gsd_cli.compute.device import autocast
from gsd_cli.compute.random import generator_for
from gsd_cli.core.models.feature_nets import ARCHITECTURES, FeatureNet
from gsd_cli.core.training.checkpoint import load_module, load_optimizer, module_tensors, optimizer_tensors
from gsd_cli.core.training.descent import descend, trapezoid
from gsd_cli.core.training.report import Metrics
from gsd_cli.data.dataset import ImageArchive


def shift(images: Tensor, random: torch.Generator) -> Tensor:
    """Images [B, C, H, W], all shifted by the same distance, up to two pixels, with wrap-around."""
    down, right = torch.randint(-2, 3, (2,), generator=random).tolist()
    return images.roll((down, right), (2, 3))


def erase(images: Tensor, random: torch.Generator) -> Tensor:
    """Images [B, C, H, W], each with a random grey square, a third of its side (Cutout: DeVries and Taylor 2017)."""
    side = max(1, images.shape[-1] // 3)
    inside = []
    for size in images.shape[2:]:
        start = torch.randint(size - side + 1, (len(images), 1), generator=random)
        place = torch.arange(size)
        inside.append((place >= start) & (place < start + side))
    rows, columns = inside
    return images.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0.0)


@dataclass(frozen=True)
class Recipe:
    """How a network of one architecture is trained: augmentation, highest learning rate, weight decay."""

    augment: Callable[[Tensor, torch.Generator], Tensor]
    lr: float
    weight_decay: float


RECIPES = {"residual": Recipe(shift, 4e-3, 0.02), "convnext": Recipe(erase, 4e-3, 0.05)}
"""By architecture. They differ as much as possible, so that two feature sets of one domain judge independently."""


class FeatureFit:
    """Cross-entropy with Adam on augmented batches; the rate rises for a fifth of the run, then falls."""

    batch_size = 128

    def __init__(
        self, data: ImageArchive, held_out: ImageArchive | None, steps: int, seed: int, device: torch.device,
        architecture: str = "residual", precision: str = "fp32",
    ):  # fmt: skip
        if data.labels is None or data.labels.ndim != 1:
            raise GsdError(
                f"{data.path} has no classes", hint="features are learned from classes: prepare the data with --labels"
            )
        self.data, self.labels, self.held_out = data, data.labels, held_out
        self.steps, self.seed, self.device, self.precision = steps, seed, device, precision
        self.recipe = RECIPES[architecture]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(generator_for(seed, "features").initial_seed())
            self.net = ARCHITECTURES[architecture](data.shape[0], int(data.labels.max()) + 1).to(device)
        decay = self.recipe.weight_decay
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=self.recipe.lr, weight_decay=decay)

    def step(self, step: int) -> Metrics:
        """One step on a random batch."""
        self.net.train()
        random = generator_for(self.seed, "features", step)
        indices = torch.randint(len(self.data), (self.batch_size,), generator=random)
        images = self.recipe.augment(self.data.batch(indices), random).to(self.device)
        with autocast(self.device, self.precision):
            logits = self.net(images)
        loss = nn.functional.cross_entropy(logits.float(), self.labels[indices].to(self.device), label_smoothing=0.05)
        lr = self.recipe.lr * trapezoid(step, self.steps, max(1, self.steps // 5), decay=0.8)
        self.optimizer.param_groups[0]["lr"] = lr
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        return {"loss": loss.detach(), "skipped": descend(self.net, self.optimizer, loss).skipped}

    def evaluate(self, step: int) -> dict[str, float]:
        """Accuracy on the held-out images."""
        if step == 0 or self.held_out is None:
            return {}
        return {"accuracy": accuracy(self.net, self.held_out, self.device)}

    def tensors(self) -> dict[str, Tensor]:
        """Network and optimizer."""
        return {**module_tensors("net", self.net), **optimizer_tensors("adam", self.optimizer)}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `tensors` gave."""
        load_module("net", self.net, tensors)
        load_optimizer("adam", self.optimizer, tensors)


@torch.no_grad()
def accuracy(net: FeatureNet, data: ImageArchive, device: torch.device) -> float:
    """Share of images that the network classifies correctly, in eval mode."""
    if data.labels is None:
        raise GsdError(f"{data.path} has no labels")
    net.eval()
    guesses = torch.cat([net(batch.to(device)).argmax(1).cpu() for batch in data.batches(256)])
    return (guesses == data.labels).double().mean().item()
