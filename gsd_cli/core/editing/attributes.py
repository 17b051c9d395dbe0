"""Attributes measured in the pixels: what a picture is, as one number, with gradients.

The background is the mean of the picture's border; what differs from it is the object. All functions take
images [B, C, H, W] in about [-1, 1] and give [B].
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Attribute = Callable[[Tensor], Tensor]
EPS = 1e-8


def brightness(images: Tensor) -> Tensor:
    """The mean, in [-1, 1]."""
    return images.flatten(1).mean(1)


def contrast(images: Tensor) -> Tensor:
    """The standard deviation over pixels and channels, in [0, 1] for pictures in [-1, 1]."""
    return (images.flatten(1).var(1, correction=0) + EPS).sqrt()


def width(images: Tensor) -> Tensor:
    """The object's width over the picture's: sqrt(12 Var + 1) pixels of the column under the object's
    weight, which is exactly W for a bar W pixels wide."""
    return _extent(_object(images).sum(1))


def height(images: Tensor) -> Tensor:
    """The object's height over the picture's, as `width`."""
    return _extent(_object(images).sum(2))


def symmetry(images: Tensor) -> Tensor:
    """The cosine between the object and its mirror image left to right: 1 for a symmetric picture."""
    centred = images - _background(images)
    mirrored = centred.flip(3)
    return (centred * mirrored).flatten(1).sum(1) / (centred.square().flatten(1).sum(1) + EPS)


ATTRIBUTES: dict[str, Attribute] = {
    "brightness": brightness,
    "contrast": contrast,
    "width": width,
    "height": height,
    "symmetry": symmetry,
}


def _background(images: Tensor) -> Tensor:
    """The border's mean per channel: [B, C, 1, 1]."""
    # the first and the last by a stride: a list of places would be copied to a GPU at every call
    height, width = images.shape[2:]
    rows = images[:, :, :: max(1, height - 1)].flatten(2)
    columns = images[:, :, 1:-1, :: max(1, width - 1)].flatten(2)
    return torch.cat([rows, columns], 2).mean(2)[..., None, None]


def _object(images: Tensor) -> Tensor:
    """How far each place is from the background: [B, H, W]."""
    return (images - _background(images)).abs().mean(1)


def _extent(profile: Tensor) -> Tensor:
    """The width of a profile [B, L], as a share of L."""
    length = profile.shape[1]
    place = torch.arange(length, device=profile.device, dtype=profile.dtype)
    share = profile / (profile.sum(1, keepdim=True) + EPS)
    mean = (share * place).sum(1, keepdim=True)
    return (12 * (share * (place - mean).square()).sum(1) + 1).sqrt() / length
