"""Feature maps, in which perceptual distances are measured: phi of the isometric term (`--irl-phi`).

A feature map takes images [B, C, H, W] in about [-1, 1] to vectors [B, F]; the distance of two
images is the Euclidean distance of their vectors. In training the images are in the teacher's space;
the maps that need pixels decode them first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gsd_cli.base.errors import ExitCode, GsdError
from gsd_cli.compute.device import full_precision
from gsd_cli.core.models.autoencoder import Autoencoder
from gsd_cli.core.models.denoiser import Denoiser, per_image
from gsd_cli.core.models.lpips import load_lpips

FeatureMap = Callable[[Tensor], Tensor]
"""Images [B, C, H, W] to vectors [B, F] whose Euclidean distance is perceptual."""
FEATURE_SIGMA = 0.2
"""The noise level at which a network's encoder is run for features."""
PIXEL_SIDE = 8
"""Side in pixels to which `pixels` averages images."""


@dataclass(frozen=True)
class FeatureMapSources:
    """What feature maps need: the frozen teacher and its autoencoder, the data's standard deviation per
    channel (of values in [-1, 1]), and the folder with weights."""

    teacher: Denoiser
    autoencoder: Autoencoder
    std: Sequence[float]
    cache: Path
    offline: bool
    device: torch.device


def build_feature_map(name: str, sources: FeatureMapSources) -> FeatureMap:
    """Build a feature map by name. Raises GsdError: no weights to download (exit 4), other channels (exit 2)."""
    return FEATURE_MAPS[name](sources)


def _teacher(sources: FeatureMapSources) -> FeatureMap:
    return lambda images: teacher_features(sources.teacher, images)


def _lpips(sources: FeatureMapSources) -> FeatureMap:
    channels = sources.autoencoder.image_shape(sources.teacher.shape)[0]
    if channels not in (1, 3):
        message = f"LPIPS reads grey or RGB images, these have {channels} channels"
        raise GsdError(message, hint="--irl-phi teacher", code=ExitCode.USAGE)
    lpips = load_lpips(sources.cache, sources.device, offline=sources.offline)
    return lambda images: lpips(sources.autoencoder.decode(images))


def _pixels(sources: FeatureMapSources) -> FeatureMap:
    std = torch.tensor(sources.std, device=sources.device).reshape(1, -1, 1, 1)
    return lambda images: pixel_features(sources.autoencoder.decode(images), std)


FEATURE_MAPS: dict[str, Callable[[FeatureMapSources], FeatureMap]] = {
    "teacher": _teacher,
    "lpips": _lpips,
    "pixels": _pixels,
}


def pixel_features(images: Tensor, std: Tensor) -> Tensor:
    """Pixels averaged to 8 x 8 in units of the data's standard deviation, [B, 64 C].

    A vector's length is the root mean square over positions. std: [1, C, 1, 1]. The mean is not
    subtracted since it cancels in every difference.
    """
    pooled = torch.nn.functional.adaptive_avg_pool2d(images.float() / std, PIXEL_SIDE)
    return pooled.flatten(1) / PIXEL_SIDE


def normalise_channels(maps: list[Tensor]) -> Tensor:
    """Encoder maps [B, c, h, w] to one vector per image [B, F], as LPIPS compares them.

    Each position's channel vector gets unit length and each map the weight 1 / (h w), so that a squared
    distance is a sum over maps of the mean over positions (Zhang et al. 2018, without learnt weights).
    """
    vectors = []
    for m in maps:
        m = m.float()
        unit = m * torch.rsqrt(m.square().sum(1, keepdim=True) + 1e-8)
        vectors.append(unit.flatten(1) / (m.shape[2] * m.shape[3]) ** 0.5)
    return torch.cat(vectors, 1)


def teacher_features(teacher: Denoiser, images: Tensor) -> Tensor:
    """The teacher's encoder at FEATURE_SIGMA: the map in the middle and the bottleneck, [B, F].

    images: [B, C, H, W] in [-1, 1]. Needs no download; computed in float32 even under autocast.
    """
    with full_precision(images.device):
        images = images.float()
        maps = teacher.encode(images, per_image(FEATURE_SIGMA, images))
    return normalise_channels([maps[len(maps) // 2 - 1], maps[-1]])
