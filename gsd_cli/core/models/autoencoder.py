"""The map between images and the space a teacher works in; the identity for a pixel model."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class Autoencoder(nn.Module):
    """The first stage of a latent-diffusion model (Rombach et al. 2022); without a network, the identity.

    Wraps diffusers' VQModel, AutoencoderKL or AutoencoderDC. Frozen: a distillation works on latents, and only images
    that are shown or measured pass through here. `shift` was taken off the latents and `scale` gave them unit variance
    when the teacher was trained.
    """

    def __init__(self, net: nn.Module | None = None, scale: float = 1.0, shift: float = 0.0):
        super().__init__()
        self.net: Any = net
        self.scale, self.shift = scale, shift

    def facts(self) -> dict[str, float]:
        """The numbers between its code and the latents, as diffusers' configs name them."""
        return {"scaling_factor": self.scale} | ({"shift_factor": self.shift} if self.shift else {})

    def decode(self, latents: Tensor) -> Tensor:
        """Latents [B, c, h, w] of about unit variance to images [B, C, H, W], about [-1, 1]."""
        if self.net is None:
            return latents
        images: Tensor = self.net.decode(latents / self.scale + self.shift).sample
        return images

    def encode(self, images: Tensor) -> Tensor:
        """Images [B, C, H, W] in [-1, 1] to latents [B, c, h, w]; the mode of a Gaussian posterior."""
        if self.net is None:
            return images
        code = self.net.encode(images)
        if hasattr(code, "latent_dist"):
            latents: Tensor = code.latent_dist.mode()
        else:  # of a VQModel, of an AutoencoderDC
            latents = code.latents if hasattr(code, "latents") else code.latent
        return (latents - self.shift) * self.scale

    def image_shape(self, latent: tuple[int, int, int]) -> tuple[int, int, int]:
        """(C, H, W) of the images that latents of this shape decode to."""
        if self.net is None:
            return latent
        config = self.net.config
        deep = "decoder_block_out_channels" in config  # an AutoencoderDC (Chen et al. 2024)
        blocks = config.decoder_block_out_channels if deep else config.block_out_channels
        factor = 2 ** (len(blocks) - 1)
        return int(config.in_channels if deep else config.out_channels), latent[1] * factor, latent[2] * factor
