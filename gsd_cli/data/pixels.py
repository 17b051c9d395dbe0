"""Image tensors as bytes, as Pillow images and as tiled images."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gsd_cli.base.atomic import atomic_file


def to_uint8(images: Tensor) -> Tensor:
    """Images in [-1, 1] (clamped) to uint8, rounded to nearest; any shape."""
    return (images.detach().cpu().float() * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8)


def from_uint8(images: Tensor) -> Tensor:
    """uint8 images to float32 in [-1, 1]; any shape."""
    return images.float() / 127.5 - 1


def to_pixels(image: Tensor) -> np.ndarray:
    """One image [C, H, W] in [-1, 1] as uint8 pixels [H, W, C]."""
    return np.asarray(to_uint8(image).permute(1, 2, 0).numpy())


def to_shown(pixels: np.ndarray) -> np.ndarray:
    """What an image [H, W, C] is shown as: RGB [H, W, 3] of the first three channels, or the first one alone [H, W]."""
    return pixels[..., :3] if pixels.shape[2] >= 3 else pixels[..., 0]


def to_pil(image: Tensor) -> Image.Image:
    """One image [C, H, W] in [-1, 1] as a PIL image, as it is shown."""
    return Image.fromarray(np.ascontiguousarray(to_shown(to_uint8(image).permute(1, 2, 0).numpy())))


def tile(images: Tensor, columns: int | None = None) -> Tensor:
    """Images [N, C, H, W] as one image [C, rows H, columns W]; nearly square by default."""
    n, c, h, w = images.shape
    columns = columns or math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    padded = torch.full((rows * columns, c, h, w), -1.0)
    padded[:n] = images.detach().cpu().float()
    return padded.reshape(rows, columns, c, h, w).permute(2, 0, 3, 1, 4).reshape(c, rows * h, columns * w)


def enlarge(images: Tensor, scale: int) -> Tensor:
    """Images [..., H, W] with every pixel as a square of `scale` x `scale`."""
    return images if scale == 1 else images.repeat_interleave(scale, -2).repeat_interleave(scale, -1)


def save_grid(images: Tensor, path: Path, columns: int | None = None, scale: int = 1) -> Path:
    """Write images [N, C, H, W] as one tiled image, enlarged `scale` times without smoothing."""
    tiled = to_pil(enlarge(tile(images, columns), scale))
    with atomic_file(path) as temporary:
        tiled.save(temporary)
    return path
