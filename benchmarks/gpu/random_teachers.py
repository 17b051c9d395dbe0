"""Teachers of the published sizes with random weights, to measure speed and memory where nothing can be downloaded.

    python -m benchmarks.gpu.random_teachers cifar10 build/teacher

Takes seconds and writes a folder for `gsd distill --teacher`. The configurations are those of google/ddpm-cifar10-32
and google/ddpm-celebahq-256, whose networks Ho et al. (2020) describe; the number of parameters is asserted.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from gsd_cli.core.models.beta_schedule import BetaSchedule
from gsd_cli.core.models.denoiser import Denoiser

_DDPM: dict[str, Any] = {
    "layers_per_block": 2, "norm_eps": 1e-6, "downsample_padding": 0, "flip_sin_to_cos": False, "freq_shift": 1,
    "attention_head_dim": None,
}  # fmt: skip
CONFIGS: dict[str, dict[str, Any]] = {
    "cifar10": {
        **_DDPM, "sample_size": 32, "block_out_channels": (128, 256, 256, 256),
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    },
    "ddpm-256": {
        **_DDPM, "sample_size": 256, "block_out_channels": (128, 128, 256, 256, 512, 512),
        "down_block_types": ("DownBlock2D",) * 4 + ("AttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "AttnUpBlock2D") + ("UpBlock2D",) * 4,
    },
    "tiny": {
        **_DDPM, "sample_size": 16, "block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 8,
        "down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2,
    },
}  # fmt: skip
PARAMETERS = {"cifar10": 35_746_307, "ddpm-256": 113_673_219}
"""Of the published networks; `tiny` is for trying a script out."""


def random_net(name: str, seed: int = 0, device: str = "cpu") -> Any:
    """The network of a configuration, frozen, on `device` (`meta`: without storage). Raises AssertionError when it
    has not as many parameters as the published one."""
    from diffusers import UNet2DModel

    torch.manual_seed(seed)
    with torch.device(device):
        net: Any = UNet2DModel(**CONFIGS[name])
    count = sum(p.numel() for p in net.parameters())
    assert count == PARAMETERS.get(name, count), f"{name} has {count:,} parameters, not {PARAMETERS[name]:,}"
    return net.eval().requires_grad_(False)


def random_teacher(name: str, seed: int = 0) -> Denoiser:
    """The teacher of a configuration, with Ho et al.'s linear schedule."""
    return Denoiser(random_net(name, seed), BetaSchedule.linear())


def main() -> None:
    """Write a folder in diffusers' format."""
    from gsd_cli.core.models.diffusers_folder import save_denoiser

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=CONFIGS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    save_denoiser(random_teacher(options.name, options.seed), options.folder, half=False)
    print(options.folder)


if __name__ == "__main__":
    main()
