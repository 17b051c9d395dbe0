"""The noise schedule that a scheduler's config describes, of whichever kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from gsd_cli.catalogue.families import BETAS, EDM, FLOW, SCORE_SDE, find_family
from gsd_cli.core.models.beta_schedule import BetaSchedule
from gsd_cli.core.models.edm_schedule import EdmSchedule
from gsd_cli.core.models.flow_schedule import FlowSchedule
from gsd_cli.core.models.schedule import NoiseSchedule
from gsd_cli.core.models.score_sde_schedule import VeSchedule

SCHEDULES: dict[str, Callable[[Mapping[str, Any]], NoiseSchedule]] = {
    BETAS: BetaSchedule.from_config,
    FLOW: FlowSchedule.from_config,
    EDM: EdmSchedule.from_config,
    SCORE_SDE: VeSchedule.from_config,
}


def read_schedule(config: Mapping[str, Any]) -> NoiseSchedule:
    """Read a diffusers scheduler config. Raises GsdError (exit 3) where it is damaged or of an unknown schedule."""
    return SCHEDULES[find_family(config)](config)
