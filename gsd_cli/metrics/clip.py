"""CLIP's ViT-B/32 (Radford et al. 2021) as features: CLIP-FID (Kynkaanniemi et al. 2023), as clean-fid measures it.

OpenAI's file is a TorchScript archive of half-precision weights; they are read from it into the same network made
of torch's own layers, which runs on a CPU too.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import functional

from gsd_cli.base.download import fetch_file
from gsd_cli.base.errors import GsdError
from gsd_cli.compute.device import in_full_precision
from gsd_cli.data.pixels import to_pil

FILE = "ViT-B-32.pt"
SHA256 = "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af"
URL = f"https://openaipublic.azureedge.net/clip/models/{SHA256}/{FILE}"
FOLDER = "clip"
"""The folder of the cache."""
SIDE = 224
HEAD = 64
"""The width of a head in all CLIP models."""
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
NAMES = {"attn": "self_attn", "mlp.c_fc": "linear1", "mlp.c_proj": "linear2", "ln_1": "norm1", "ln_2": "norm2"}


def quick_gelu(x: Tensor) -> Tensor:
    """The activation that CLIP was trained with."""
    return x * torch.sigmoid(1.702 * x)


class ImageEncoder(nn.Module):
    """CLIP's vision transformer: normalised images [B, 3, S, S] to [B, F]."""

    def __init__(self, width: int, layers: int, heads: int, patch: int, side: int, features: int):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.class_embedding = nn.Parameter(torch.zeros(width))
        self.positional_embedding = nn.Parameter(torch.zeros((side // patch) ** 2 + 1, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = build_transformer(width, layers, heads)
        self.proj = nn.Parameter(torch.zeros(width, features))

    @classmethod
    def from_weights(cls, weights: dict[str, Tensor]) -> ImageEncoder:
        """From OpenAI's names, with sizes from the weights."""
        width, _, patch, _ = weights["conv1.weight"].shape
        side = patch * round((len(weights["positional_embedding"]) - 1) ** 0.5)
        net = cls(width, count_layers(weights), max(1, width // HEAD), patch, side, weights["proj"].shape[1])
        net.load_state_dict(rename(weights))
        return net.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """The class token's projection."""
        patches = self.conv1(x).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(len(x), 1, -1)
        tokens = self.ln_pre(torch.cat([first, patches], 1) + self.positional_embedding)
        projected: Tensor = self.ln_post(self.transformer(tokens)[:, 0]) @ self.proj
        return projected


def build_transformer(width: int, layers: int, heads: int) -> nn.TransformerEncoder:
    """The residual blocks of both encoders, of torch's own layers."""
    layer = nn.TransformerEncoderLayer(
        width, heads, 4 * width, dropout=0.0, activation=quick_gelu, batch_first=True, norm_first=True
    )
    return nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)


def count_layers(weights: dict[str, Tensor]) -> int:
    """The number of blocks that these weights, with OpenAI's names, have."""
    return len({name.split(".")[2] for name in weights if name.startswith("transformer.resblocks.")})


def rename(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights with OpenAI's names as those of the networks here, in float32."""
    return {_name(name): value.float() for name, value in weights.items()}


def _name(name: str) -> str:
    name = re.sub(r"^transformer\.resblocks\.", "transformer.layers.", name)
    for theirs, ours in NAMES.items():
        name = name.replace(f".{theirs}.", f".{ours}.")
    return name


class ClipFeatures:
    """CLIP's image features; images are resized with Pillow's bicubic filter, as clean-fid does."""

    name, figure = "clip", "CLIP-FID"

    def __init__(self, net: ImageEncoder, device: torch.device):
        self.net, self.device = net.to(device), device
        self.mean, self.std = (torch.tensor(value, device=device).reshape(3, 1, 1) for value in (MEAN, STD))

    @in_full_precision
    def features(self, images: Tensor) -> Tensor:
        """[B, 512] of images [B, C, H, W] in [-1, 1]; grey ones are repeated to three channels."""
        seen = torch.stack([functional.pil_to_tensor(_resized(image)) for image in images.cpu()])
        return self.net((seen.to(self.device) / 255 - self.mean) / self.std)

    def embed(self, images: Tensor) -> Tensor:
        """Raises GsdError: CLIP has no perceptual distance; path lengths use another extractor."""
        raise GsdError("CLIP features measure no perceptual distance")

    def squared_distance(self, a: Tensor, b: Tensor) -> Tensor:
        """Raises GsdError, as `embed` does."""
        raise GsdError("CLIP features measure no perceptual distance")


def _resized(image: Tensor) -> Image.Image:
    shown = to_pil(image).convert("RGB")
    resized = functional.resize(shown, [SIDE], functional.InterpolationMode.BICUBIC)
    return functional.center_crop(resized, [SIDE, SIDE])


def clip_features(cache: Path, device: torch.device, *, offline: bool) -> ClipFeatures:
    """CLIP's image features, from OpenAI's file. Raises as `read_archive`."""
    weights = read_archive(cache, offline=offline)
    own = {k.removeprefix("visual."): v for k, v in weights.items() if k.startswith("visual.")}
    return ClipFeatures(ImageEncoder.from_weights(own), device)


def read_archive(cache: Path, *, offline: bool) -> dict[str, Tensor]:
    """The weights of both encoders. OpenAI's file is found in the cache or downloaded; its hash is checked.

    Raises GsdError: exit 4 when it cannot be had, exit 3 when the cache holds another file.
    """
    path = cache / FOLDER / FILE
    hint = f"put {FILE} into {path.parent}, or use other --features or --metrics"
    fetch_file(path, URL, SHA256, "CLIP, which CLIP-FID and the CLIP score need,", hint, offline=offline)
    weights: dict[str, Tensor] = torch.jit.load(str(path), map_location="cpu").state_dict()
    return weights
