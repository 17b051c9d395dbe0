"""A small image classifier: the independent features of a domain that has no Inception at hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gsd_cli.core.checkpoint import load_module, load_optimizer, module_tensors, optimizer_tensors
from gsd_cli.core.noise import generator_for
from gsd_cli.core.training import trapezoid
from gsd_cli.data.archive import ImageArchive
from gsd_cli.errors import GsdError
from gsd_cli.paths import read_json
from gsd_cli.writing import write_json

WEIGHTS = "features.safetensors"
WIDTHS = (32, 64, 128)
PEAK_LR = 4e-3


class FeatureNet(nn.Module):
    """A residual network of three resolutions; its pooled last map is the feature vector."""

    def __init__(self, channels: int, classes: int, widths: tuple[int, ...] = WIDTHS):
        super().__init__()
        self.stem = _conv(channels, widths[0])
        self.stages = nn.ModuleList(
            nn.Sequential(nn.MaxPool2d(2), _conv(before, after), _Residual(after))
            for before, after in zip((widths[0], *widths), widths, strict=False)
        )
        self.head = nn.Linear(widths[-1], classes)
        self.dim = widths[-1]

    def maps(self, images: Tensor) -> list[Tensor]:
        """images [B, C, H, W] in [-1, 1] to the stages' maps [B, c, h, w], at 1/2, 1/4, 1/8 size."""
        hidden, maps = self.stem(images), []
        for stage in self.stages:
            hidden = stage(hidden)
            maps.append(hidden)
        return maps

    def features(self, images: Tensor) -> Tensor:
        """The penultimate layer: [B, dim]."""
        return self.maps(images)[-1].mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Class logits [B, classes]."""
        logits: Tensor = self.head(self.features(images))
        return logits


class _Residual(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.body = nn.Sequential(_conv(width, width), _conv(width, width))

    def forward(self, hidden: Tensor) -> Tensor:
        out: Tensor = hidden + self.body(hidden)
        return out


def _conv(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU())


class FeatureFit:
    """Cross-entropy with Adam and random shifts; the rate rises for a fifth of the run, then falls."""

    batch_size = 128

    def __init__(self, data: ImageArchive, held_out: ImageArchive | None, steps: int, seed: int, device: torch.device):
        if data.labels is None or data.labels.ndim != 1:
            raise GsdError(
                f"{data.path} has no classes", hint="features are learnt from classes: prepare with --labels"
            )
        self.data, self.labels, self.held_out = data, data.labels, held_out
        self.steps, self.seed, self.device = steps, seed, device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(generator_for(seed, "features").initial_seed())
            self.net = FeatureNet(data.shape[0], int(data.labels.max()) + 1).to(device)
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=PEAK_LR, weight_decay=0.02)

    def step(self, step: int) -> dict[str, float]:
        """One step on a random batch."""
        self.net.train()
        random = generator_for(self.seed, "features", step)
        indices = torch.randint(len(self.data), (self.batch_size,), generator=random)
        down, right = torch.randint(-2, 3, (2,), generator=random).tolist()
        images = self.data.batch(indices).roll((down, right), (2, 3)).to(self.device)
        logits = self.net(images)
        loss = nn.functional.cross_entropy(logits, self.labels[indices].to(self.device), label_smoothing=0.05)
        lr = PEAK_LR * trapezoid(step, self.steps, max(1, self.steps // 5), decay=0.8)
        self.optimizer.param_groups[0]["lr"] = lr
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if torch.isfinite(loss):
            self.optimizer.step()
        return {"loss": loss.item()}

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
    """Share of images whose class the network names, in eval mode."""
    if data.labels is None:
        raise GsdError(f"{data.path} has no labels")
    net.eval()
    guesses = torch.cat([net(batch.to(device)).argmax(1).cpu() for batch in data.batches(256)])
    return (guesses == data.labels).double().mean().item()


def save_features(net: FeatureNet, folder: Path, card: dict[str, Any]) -> None:
    """Write weights (float16) and card into an existing folder."""
    save_file({k: v.half() if v.is_floating_point() else v for k, v in net.state_dict().items()}, folder / WEIGHTS)
    shape = {"channels": net.stem[0].in_channels, "classes": net.head.out_features}
    write_json(folder / "gsd.json", {**card, **shape})


def load_features(folder: Path) -> FeatureNet:
    """Read what `save_features` wrote, in eval mode, frozen. Raises GsdError (exit 3)."""
    card = read_json(folder / "gsd.json")
    try:
        tensors = load_file(folder / WEIGHTS)
        # the weights say how large the network is: a card could name any size
        channels, classes = tensors["stem.0.weight"].shape[1], tensors["head.weight"].shape[0]
        if (card["channels"], card["classes"]) != (channels, classes):
            raise ValueError("gsd.json and weights differ in channels or classes")
        net = FeatureNet(channels, classes)
        net.load_state_dict(tensors)
    except (OSError, IndexError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise GsdError(
            f"cannot read the features in {folder}: {error}", hint="make them with --fit-features"
        ) from error
    return net.float().eval().requires_grad_(False)
