"""How long `gsd prepare --fit-teacher` takes on this device, from timed training passes."""

from __future__ import annotations

import time

import torch

from gsd_cli.base.text import format_duration
from gsd_cli.compute.device import autocast, synchronize
from gsd_cli.core.training.unets import build_unet
from gsd_cli.options import FitSettings

FEW, MANY = 2, 8
"""Images in the passes that are timed on a CPU, where a whole batch may take seconds."""


def seconds_per_step(
    settings: FitSettings,
    shape: tuple[int, ...],
    device: torch.device,
    precision: str = "fp32",
    processes: int = 1,
    text: tuple[int, int] | None = None,
) -> float:
    """Seconds of a forward and a backward pass of one process's share of a batch of images [C, H, W].

    text: the tokens of a text and the numbers of a token's vector, for a text-conditional network.
    """
    net = build_unet(settings.architecture, shape[1], shape[0], text=text and text[1]).to(device)
    share = max(1, settings.batch_size // processes)
    if device.type != "cpu" or share <= MANY:
        return _seconds_of(net, share, shape, device, precision, text)
    few, many = (_seconds_of(net, size, shape, device, precision, text) for size in (FEW, MANY))
    return many + max(0.0, many - few) / (MANY - FEW) * (share - MANY)


def _seconds_of(
    net: torch.nn.Module,
    batch: int,
    shape: tuple[int, ...],
    device: torch.device,
    precision: str,
    text: tuple[int, int] | None,
) -> float:
    """The better of two passes after a warm-up."""
    x, taken = torch.zeros(batch, *shape, device=device), []
    given = None if text is None else torch.zeros(batch, *text, device=device)
    for _ in range(3):
        synchronize(device)
        begun = time.perf_counter()
        with autocast(device, precision):
            loss = net(x, torch.ones(batch, device=device), given).sample.float().square().mean()
        loss.backward()
        synchronize(device)
        taken.append(time.perf_counter() - begun)
    return min(taken[1:])


def describe_fit(settings: FitSettings, seconds: float, device: torch.device) -> str:
    """The length of the training and its time in words. seconds: of one step."""
    images, time_ = settings.steps * settings.batch_size, format_duration(settings.steps * seconds)
    length = f"{settings.steps:,} steps of batch {settings.batch_size} = {images:,} images"
    return f"a {settings.architecture} teacher, {length}: about {time_} on {device} (from one timed step)"
