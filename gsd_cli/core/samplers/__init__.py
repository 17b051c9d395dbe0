"""Samplers of a teacher: one short function each, over a Denoiser.

Each takes `noise` [B, C, H, W] ~ N(0, I) and returns images, about [-1, 1], unclamped. What is
random beyond that comes from each image's own seed.
"""

from gsd_cli.core.samplers.discrete import Step, ancestral, ddim
from gsd_cli.core.samplers.hybrid import adapted_sigmas, hybrid
from gsd_cli.core.samplers.langevin import predictor_corrector
from gsd_cli.core.samplers.names import ONE_STEP_SIGMA, Sampler, parse_sampler
from gsd_cli.core.samplers.ode import dpm_solver, euler, heun, karras_sigmas

__all__ = [
    "ONE_STEP_SIGMA", "Sampler", "Step", "adapted_sigmas", "ancestral", "ddim", "dpm_solver", "euler", "heun", "hybrid",
    "karras_sigmas", "parse_sampler", "predictor_corrector",
]  # fmt: skip
