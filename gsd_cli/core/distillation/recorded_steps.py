"""Steps of a distillation from recordings (CUDA graphs), one for each variant of a step.

A step is a function of networks, optimizers and running figures, which keep their addresses; of random numbers, which
a tape draws again; and of a few numbers that the step's number decides, which are tensors too. A recording repeats the
rest.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gsd_cli.compute.graphs import Recorder
from gsd_cli.core.distillation.taped_draws import Tape, TapedDraws

Metrics = dict[str, float | Tensor]
REHEARSALS = 3
"""Unrecorded steps of a variant before it is recorded: libraries choose their kernels and set up memory in them."""


@dataclass
class Variant:
    """What is known of one kind of step: its draws, and the function that repeats it once it is recorded."""

    rehearsed: int = 0
    tape: Tape = field(default_factory=Tape)
    repeat: Callable[[], Metrics] | None = None


class RecordedSteps:
    """Runs steps, each variant from its recording after a few rehearsals.

    failure: why recording was given up; steps run unrecorded from then on. notes: for the user. rehearsing: whether the
    last step was slower than most will be.
    """

    def __init__(self, recorder: Recorder, draws: TapedDraws):
        self.recorder, self.draws = recorder, draws
        self.failure: str | None = None
        self.notes: list[str] = []
        self.rehearsing = False
        self._variants: dict[Hashable, Variant] = {}

    def run(self, step: int, variant: Hashable, work: Callable[[int], Metrics]) -> Metrics:
        """Do `work(step)`. Steps of one variant must do the same but for their random numbers and what tensors hold."""
        known = self._variants.setdefault(variant, Variant())
        self.rehearsing = known.repeat is None and self.failure is None
        if self.rehearsing and known.rehearsed >= REHEARSALS:
            self._record(known, step, work)
        if known.repeat is not None:
            known.tape.fill(step)
            return known.repeat()
        if self.failure is not None:
            return work(step)
        known.rehearsed += 1
        with self.draws.noted() as known.tape:
            metrics: Metrics = self.recorder.rehearse(lambda: work(step))
        return metrics

    def _record(self, known: Variant, step: int, work: Callable[[int], Metrics]) -> None:
        names: list[str] = []
        numbers: Metrics = {}

        def recorded() -> Tensor:
            with self.draws.played(known.tape):
                metrics = work(step)
            numbers.update(metrics)
            names[:] = (name for name, value in metrics.items() if isinstance(value, Tensor))
            return torch.stack([torch.as_tensor(metrics[name]).detach().float().reshape(()) for name in names])

        try:
            repeat = self.recorder.record(recorded)
        except RuntimeError as error:
            self.failure = (str(error).splitlines() or [type(error).__name__])[0]
            self.notes.append(f"steps are not recorded as CUDA graphs, and slower: {self.failure}")
            return

        def repeated() -> Metrics:
            figures = repeat().clone()  # the next repetition overwrites them, and they are read later
            return {**numbers, **dict(zip(names, figures.unbind(), strict=True))}

        known.repeat = repeated
