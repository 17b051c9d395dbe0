"""The noise schedule that a scheduler's config describes, of whichever kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from gsd_cli.catalogue.families import BETAS, EDM, FLOW, find_family
from gsd_cli.core.models.beta_schedule import BetaSchedule
from gsd_cli.core.models.edm_schedule import EdmSchedule
from gsd_cli.core.models.flow_schedule import FlowSchedule
from gsd_cli.core.models.schedule import NoiseSchedule

SCHEDULES: dict[str, Callable[[Mapping[str, Any]], NoiseSchedule]] = {
    BETAS: BetaSchedule.from_config,
    FLOW: FlowSchedule.from_config,
    EDM: EdmSchedule.from_config,
}


def read_schedule(config: Mapping[str, Any]) -> NoiseSchedule:
    """Read a diffusers scheduler config. Raises GsdError (exit 3) where it is damaged or of an unknown schedule."""
    return SCHEDULES[find_family(config)](config)
