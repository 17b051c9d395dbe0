"""phi: the feature map in which the isometric term measures pictures."""

from __future__ import annotations

import torch
from torch import Tensor

from gsd_cli.core.denoiser import Denoiser, per_image

PHI_SIGMA = 0.2


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
    with torch.autocast(images.device.type, enabled=False):
        images = images.float()
        maps = teacher.encode(images, per_image(PHI_SIGMA, images))
    return normalise_channels([maps[len(maps) // 2 - 1], maps[-1]])
