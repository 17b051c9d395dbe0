"""What a diffusers folder is made of: names only, no heavy imports."""

from __future__ import annotations

SAFE_WEIGHTS = "diffusion_pytorch_model.safetensors"
BIN_WEIGHTS = "diffusion_pytorch_model.bin"
AUTOENCODERS = ("vqvae", "vae")
PARTS = ("", "unet/", *(f"{name}/" for name in AUTOENCODERS))
"""Where networks lie; the flat layout has one, at the top."""
CONFIGS = ("model_index.json", "scheduler_config.json", "scheduler/*.json", *(f"{part}config.json" for part in PARTS))
