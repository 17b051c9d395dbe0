"""Which kind of diffusion a scheduler's config describes: how noise is added, by its file alone. No heavy imports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

BETAS, FLOW, EDM, SCORE_SDE, SCORE_SDE_VP = "betas", "flow", "edm", "score-sde", "score-sde-vp"
TITLES = {
    BETAS: "discrete DDPM", FLOW: "flow matching", EDM: "EDM",
    SCORE_SDE: "variance-exploding score SDE", SCORE_SDE_VP: "variance-preserving score SDE",
}  # fmt: skip


def find_family(config: Mapping[str, Any]) -> str:
    """The kind of a diffusers scheduler config, which may be empty; `betas` where nothing says another."""
    name = str(config.get("_class_name", ""))
    # SANA's DPM-Solver has betas in its config too: what it says about flows comes first
    if "Flow" in name or config.get("prediction_type") == "flow_prediction" or config.get("use_flow_sigmas"):
        return FLOW
    if "EDM" in name:
        return EDM
    if "Sde" in name:  # VeSdeScheduler is the earlier name of ScoreSdeVeScheduler
        return SCORE_SDE_VP if "Vp" in name else SCORE_SDE
    if "beta_schedule" in config or "trained_betas" in config:
        return BETAS
    if "sigma_data" in config:
        return EDM
    if "beta_max" in config:
        return SCORE_SDE_VP
    if "snr" in config and "sigma_max" in config:
        return SCORE_SDE
    return FLOW if "shift" in config else EDM if "sigma_max" in config else BETAS
