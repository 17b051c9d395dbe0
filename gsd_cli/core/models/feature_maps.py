"""phi: the feature maps in which the isometric term measures pictures, `--irl-phi`.

A feature map takes images [B, C, H, W] in about [-1, 1] to vectors [B, F]; the distance of two
pictures is the Euclidean distance of theirs. In training the images are in the teacher's space:
maps that look at pictures decode them first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gsd_cli.compute.device import full_precision
from gsd_cli.core.models.autoencoder import Autoencoder
from gsd_cli.core.models.denoiser import Denoiser, per_image

Phi = Callable[[Tensor], Tensor]

PHI_SIGMA = 0.2
PIXEL_SIDE = 8


@dataclass(frozen=True)
class PhiSources:
    """What feature maps are made from: the frozen teacher and its first stage, the data's standard
    deviation per channel (in [-1, 1] scale), and where weights lie."""

    teacher: Denoiser
    autoencoder: Autoencoder
    std: Sequence[float]
    cache: Path
    offline: bool
    device: torch.device


def build_phi(name: str, sources: PhiSources) -> Phi:
    """A feature map by name. Raises GsdError (exit 4) when its weights cannot be had."""
    return PHIS[name](sources)


def _teacher(sources: PhiSources) -> Phi:
    return lambda images: teacher_features(sources.teacher, images)


def _lpips(sources: PhiSources) -> Phi:
    from gsd_cli.core.models.lpips import load_lpips

    lpips = load_lpips(sources.cache, sources.device, offline=sources.offline)
    return lambda images: lpips(sources.autoencoder.decode(images))


def _pixels(sources: PhiSources) -> Phi:
    std = torch.tensor(sources.std, device=sources.device).reshape(1, -1, 1, 1)
    return lambda images: pixel_features(sources.autoencoder.decode(images), std)


PHIS: dict[str, Callable[[PhiSources], Phi]] = {"teacher": _teacher, "lpips": _lpips, "pixels": _pixels}


def pixel_features(images: Tensor, std: Tensor) -> Tensor:
    """Pixels averaged to 8 x 8 in units of the data's standard deviation, [B, 64 C]: the RMS over
    places is the length. std: [1, C, 1, 1] (the mean would cancel in every difference)."""
    pooled = torch.nn.functional.adaptive_avg_pool2d(images.float() / std, PIXEL_SIDE)
    return pooled.flatten(1) / PIXEL_SIDE


def normalise_channels(maps: list[Tensor]) -> Tensor:
    """Feature maps [B, c, h, w] to one vector a picture [B, F], as LPIPS compares them.

    Each position's channel vector gets unit length, each map weighs 1 / (h w), so a squared
    distance is a sum over maps of the mean over positions (Zhang et al. 2018, without weights).
    """
    vectors = []
    for m in maps:
        m = m.float()
        unit = m * torch.rsqrt(m.square().sum(1, keepdim=True) + 1e-8)
        vectors.append(unit.flatten(1) / (m.shape[2] * m.shape[3]) ** 0.5)
    return torch.cat(vectors, 1)


def teacher_features(teacher: Denoiser, images: Tensor) -> Tensor:
    """The teacher's own encoder at sigma = 0.2: a middle down block and the mid block, [B, F].

    images: [B, C, H, W] in [-1, 1]. Needs no download; computed in float32 whatever is around it.
    """
    with full_precision(images.device):
        images = images.float()
        maps = teacher.encode(images, per_image(PHI_SIGMA, images))
    return normalise_channels([maps[len(maps) // 2 - 1], maps[-1]])
