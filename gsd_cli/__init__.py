"""gsd: from a pretrained diffusion model to a one-step generator, from the shell."""
