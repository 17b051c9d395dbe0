"""LPIPS (Zhang et al., CVPR 2018) in its VGG16 version, as a feature map.

The squared distance of two vectors is LPIPS 0.1: VGG16 maps after five ReLUs, scaled to unit length at
each position; squared differences weighted per channel by the learnt non-negative weights, averaged over
positions and summed over maps. Images are not resized.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gsd_cli.base.download import fetch_file
from gsd_cli.base.errors import GsdError

VGG_FILE = "vgg16-397923af.pth"
VGG_URL = f"https://download.pytorch.org/models/{VGG_FILE}"
VGG_SHA256 = "397923af"
LINEAR_FILE = "lpips-vgg-0.1.pth"
LINEAR_URL = "https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/master/lpips/weights/v0.1/vgg.pth"
LINEAR_SHA256 = "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868"

TAPS = (3, 8, 15, 22, 29)
"""The ReLUs before each pooling, in torchvision's numbering."""
MEAN, STD = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""ImageNet's per channel, for images in [-1, 1], rounded as in LPIPS."""


class LpipsFeatures(nn.Module):
    """Images [B, 1 or 3, H, W] in [-1, 1] with sides of at least 16 to vectors [B, F]."""

    mean: Tensor
    std: Tensor

    def __init__(self, layers: nn.Sequential, weights: list[Tensor]):
        super().__init__()
        self.layers = layers[: TAPS[-1] + 1]
        self.roots = nn.ParameterList(w.flatten().clamp(min=0).sqrt().reshape(1, -1, 1, 1) for w in weights)
        self.register_buffer("mean", torch.tensor(MEAN).reshape(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(STD).reshape(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Vectors whose squared Euclidean distance is LPIPS."""
        hidden = (images.float() - self.mean) / self.std  # grey is repeated by broadcasting
        vectors: list[Tensor] = []
        for i, layer in enumerate(self.layers):
            hidden = layer(hidden)
            if i in TAPS:
                # eps inside the root: the slope is infinite at 0
                unit = hidden * torch.rsqrt(hidden.square().sum(1, keepdim=True) + 1e-10)
                positions = hidden.shape[2] * hidden.shape[3]
                vectors.append((unit * self.roots[len(vectors)]).flatten(1) / positions**0.5)
        return torch.cat(vectors, 1)


def load_lpips(cache: Path, device: torch.device, *, offline: bool) -> LpipsFeatures:
    """Read VGG16 and the LPIPS weights from the cache (or torch.hub's), or download them.

    Raises GsdError: exit 4 when they cannot be downloaded, exit 3 when they are damaged.
    """
    from torchvision.models.vgg import cfgs, make_layers

    vgg_path = Path(torch.hub.get_dir()) / "checkpoints" / VGG_FILE
    if not vgg_path.exists():
        vgg_path = cache / "lpips" / VGG_FILE
    linear_path = cache / "lpips" / LINEAR_FILE
    hint = f"put {VGG_FILE} and {LINEAR_FILE} into {cache / 'lpips'}, or use --irl-phi teacher"
    fetch_file(vgg_path, VGG_URL, VGG_SHA256, "VGG16 (for --irl-phi lpips)", hint, offline=offline)
    fetch_file(linear_path, LINEAR_URL, LINEAR_SHA256, "the LPIPS weights", hint, offline=offline)
    vgg, linear = _read(vgg_path), _read(linear_path)
    layers = make_layers(cfgs["D"])
    prefix = "features."
    layers.load_state_dict({k.removeprefix(prefix): v for k, v in vgg.items() if k.startswith(prefix)})
    # the order of the maps is that of the keys lin0 .. lin4
    features = LpipsFeatures(layers, [linear[key] for key in sorted(linear)])
    return features.to(device).eval().requires_grad_(False)


def _read(path: Path) -> dict[str, Any]:
    try:
        tensors: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files raise nearly anything
        raise GsdError(f"cannot read {path}: {type(error).__name__}", hint="delete it") from error
    return tensors
