"""Between pictures and the space a teacher works in: itself for a pixel model."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class Autoencoder(nn.Module):
    """The first stage of a latent-diffusion model (Rombach et al. 2022); without a network, the identity.

    Wraps diffusers' VQModel or AutoencoderKL. Frozen: a distillation works in the latent and only
    pictures and measures pass through here. `scale` is what latents were multiplied by to give
    them unit variance when the teacher was trained.
    """

    def __init__(self, net: nn.Module | None = None, scale: float = 1.0):
        super().__init__()
        self.net: Any = net
        self.scale = scale

    def decode(self, latents: Tensor) -> Tensor:
        """Latents [B, c, h, w] of about unit variance to pictures [B, C, H, W], about [-1, 1]."""
        if self.net is None:
            return latents
        pictures: Tensor = self.net.decode(latents / self.scale).sample
        return pictures

    def encode(self, pictures: Tensor) -> Tensor:
        """Pictures [B, C, H, W] in [-1, 1] to latents [B, c, h, w]; the mode of a Gaussian posterior."""
        if self.net is None:
            return pictures
        code = self.net.encode(pictures)
        latents: Tensor = code.latent_dist.mode() if hasattr(code, "latent_dist") else code.latents
        return latents * self.scale

    def picture_shape(self, latent: tuple[int, int, int]) -> tuple[int, int, int]:
        """(C, H, W) of the pictures that latents of this shape decode to."""
        if self.net is None:
            return latent
        config = self.net.config
        factor = 2 ** (len(config.block_out_channels) - 1)
        return int(config.out_channels), latent[1] * factor, latent[2] * factor
