"""Which reading of a network's output denoises real images best: for folders that do not say how it was trained.

Each reading is a denoiser D(x, sigma). Of the right one, `rms(D(y + sigma n, sigma) - y) / sigma` is the smallest at
every noise level. This also guards a teacher whose folder says something wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gsd_cli.catalogue.readings import Reading
from gsd_cli.compute.device import full_precision
from gsd_cli.compute.random import generator_for
from gsd_cli.core.models.condition import Condition
from gsd_cli.core.models.denoiser import Denoiser, per_image
from gsd_cli.core.models.schedule import NoiseSchedule
from gsd_cli.core.models.schedules import read_schedule

LEVELS = (0.1, 0.3, 1.0, 2.5, 8.0)
"""Noise levels (sigma) at which readings are compared."""
CALL = 8
"""Images per call of the network."""
FITTING = 0.8
"""A reading fits if its error is below this share of the smallest error of any reading of an output of zeros."""
CLEAR = 1.5
"""Another reading contradicts the folder if the folder's has this many times its error."""


@dataclass(frozen=True)
class Measured:
    """The error of each reading (the geometric mean over the levels), the smallest first.

    idle: the smallest error of any reading of a network whose output is zero.
    """

    errors: tuple[tuple[Reading, float], ...]
    idle: float

    @property
    def best(self) -> tuple[Reading, float]:
        """The reading with the smallest error."""
        return self.errors[0]

    @property
    def fits(self) -> bool:
        """Whether the network, by its best reading, denoises these images at all."""
        return self.best[1] < FITTING * self.idle


@torch.no_grad()
def measure_readings(
    model: Denoiser, readings: tuple[Reading, ...], images: Tensor, condition: Condition, seed: int = 0,
    on_call: Callable[[int], None] = lambda done: None,
) -> Measured:  # fmt: skip
    """The errors of the readings of the model's network.

    images: [N, C, H, W] in the space of the model, on its device; condition: of N images. on_call(done) is called
    with the number of levels done, of `count_levels`.
    """
    schedules = _distinct_schedules(readings)
    levels = _common_levels(list(schedules.values()))
    noise = torch.randn(images.shape, generator=generator_for(seed, "reading")).to(images.device)
    errors: dict[str, list[float]] = {}
    idle: dict[str, list[float]] = {}
    for number, (key, schedule) in enumerate(schedules.items()):
        view = model.read_as(next(iter(schedule.outputs)), schedule)
        for place, level in enumerate(levels):
            x, sigma = images + level * noise, per_image(level, images)
            with full_precision(images.device):
                raw = torch.cat([_call(view, x, sigma, condition, part) for part in torch.arange(len(x)).split(CALL)])
            for reading in readings:
                if str(reading.schedule) != key:
                    continue
                for found, output in ((errors, raw), (idle, torch.zeros_like(raw))):
                    off = model.read_as(reading.prediction, schedule).clean(output, x, sigma) - images
                    found.setdefault(reading.name, []).append(float(off.square().mean().sqrt()) / level)
            on_call(number * len(levels) + place + 1)
    means = [(reading, _geometric_mean(errors[reading.name])) for reading in readings]
    return Measured(
        tuple(sorted(means, key=lambda pair: pair[1])), min(_geometric_mean(values) for values in idle.values())
    )


def join_measured(parts: Sequence[Measured]) -> Measured:
    """The errors of the readings of several networks, together."""
    errors = sorted((pair for part in parts for pair in part.errors), key=lambda pair: pair[1])
    return Measured(tuple(errors), min(part.idle for part in parts))


def count_levels(readings: tuple[Reading, ...]) -> int:
    """How many noise levels `measure_readings` passes through."""
    schedules = _distinct_schedules(readings)
    return len(schedules) * len(_common_levels(list(schedules.values())))


def _call(model: Denoiser, x: Tensor, sigma: Tensor, condition: Condition, part: Tensor) -> Tensor:
    return model.raw(x[part], sigma[part], condition.rows(part))


def _distinct_schedules(readings: tuple[Reading, ...]) -> dict[str, NoiseSchedule]:
    found: dict[str, NoiseSchedule] = {}
    for reading in readings:
        key = str(reading.schedule)
        if key not in found:
            found[key] = read_schedule(reading.schedule)
    return found


def _common_levels(schedules: list[NoiseSchedule]) -> list[float]:
    """The levels that all schedules have."""
    lowest = max(float(schedule.sigmas[0]) for schedule in schedules)
    highest = min(float(schedule.sigmas[-1]) for schedule in schedules)
    return [level for level in LEVELS if lowest <= level <= highest] or [math.sqrt(lowest * highest)]


def _geometric_mean(values: list[float]) -> float:
    # a network given a time that it does not know may overflow
    finite = [value if math.isfinite(value) else math.inf for value in values]
    return math.exp(sum(math.log(max(value, 1e-12)) for value in finite) / len(values))
