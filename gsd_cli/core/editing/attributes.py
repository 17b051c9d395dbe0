"""Attributes measured in the pixels: one number per image, with gradients.

The background is the mean of the image's border; pixels that differ from it are the object. All functions
take images [B, C, H, W] in about [-1, 1] and return [B].
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

EPS = 1e-8
FISHER_MARGIN = 5e-4
"""Keeps Fisher's z finite: a symmetric image has 4.1."""


def brightness(images: Tensor) -> Tensor:
    """The mean, in [-1, 1]."""
    return images.flatten(1).mean(1)


def contrast(images: Tensor) -> Tensor:
    """The standard deviation over pixels and channels, in [0, 1] for images in [-1, 1]."""
    return (images.flatten(1).var(1, correction=0) + EPS).sqrt()


def width(images: Tensor) -> Tensor:
    """The object's width as a share of the image's: sqrt(12 Var + 1) pixels, with the variance of the column
    index weighted by the object. That is exactly W for a bar W pixels wide."""
    return _extent(_object(images).sum(1))


def height(images: Tensor) -> Tensor:
    """The object's height as a share of the image's, measured like `width`."""
    return _extent(_object(images).sum(2))


def symmetry(images: Tensor) -> Tensor:
    """Fisher's z of the cosine between the object and its mirror image left to right: 0 without symmetry, 4.1 at most.

    The cosine itself is squeezed against 1, where a standard deviation means nothing: garments reach 0.9 to 0.99.
    """
    centred = images - _background(images)
    mirrored = centred.flip(3)
    cosine = (centred * mirrored).flatten(1).sum(1) / (centred.square().flatten(1).sum(1) + EPS)
    return ((1 - FISHER_MARGIN) * cosine).atanh()


ATTRIBUTES: dict[str, Callable[[Tensor], Tensor]] = {
    "brightness": brightness,
    "contrast": contrast,
    "width": width,
    "height": height,
    "symmetry": symmetry,
}


def _background(images: Tensor) -> Tensor:
    """The border's mean per channel: [B, C, 1, 1]."""
    # a stride picks the first and the last: a list of indices would be copied to a GPU in every call
    height, width = images.shape[2:]
    rows = images[:, :, :: max(1, height - 1)].flatten(2)
    columns = images[:, :, 1:-1, :: max(1, width - 1)].flatten(2)
    return torch.cat([rows, columns], 2).mean(2)[..., None, None]


def _object(images: Tensor) -> Tensor:
    """The distance of each pixel from the background: [B, H, W]."""
    return (images - _background(images)).abs().mean(1)


def _extent(profile: Tensor) -> Tensor:
    """The width of a profile [B, L], as a share of L."""
    length = profile.shape[1]
    position = torch.arange(length, device=profile.device, dtype=profile.dtype)
    share = profile / (profile.sum(1, keepdim=True) + EPS)
    mean = (share * position).sum(1, keepdim=True)
    return (12 * (share * (position - mean).square()).sum(1) + 1).sqrt() / length
