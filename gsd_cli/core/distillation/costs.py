"""What a training image costs in forward passes, and what the networks of a run take in memory, by counting."""

from __future__ import annotations

from typing import Protocol

import torch

from gsd_cli.catalogue.cost import STUDENT_TRAINED, VALUES_TRAINED
from gsd_cli.compute.device import DTYPES, bytes_for_autocast
from gsd_cli.core.distillation.isometric_forms import FORMS
from gsd_cli.core.distillation.placement import calls_float32
from gsd_cli.core.models.adapters import adapter_parameters
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.options import DistillSettings

FLOAT = 4
FAKE_CALLS, GENERATOR_CALLS, JUDGING_CALLS, MANIFOLD_CALLS = 4, 4, 4, 3
"""Costs in forward calls. An update of the fake score: a forward of G; forward and backward of g. An update of the
generator: forward and backward of G; the isometric term. The distillation loss in it: forward, and the images' half of
the backward, of f and g. `--irl-gradient manifold`, per image that the isometric term looks at: two forwards and the
latents' half of the backward of G."""
TEACHER_CALLS = 1
"""Of a bounded fake score, in its update: a forward of the teacher."""
DISCRIMINATOR_CALLS, ADVERSARIAL_CALLS = 1.6, 1.2
"""Of an update of the discriminator (the encoder on real and on generated images, the heads forward and backward), and
of its gradient at the generator's images; timed on a small UNet, where the heads take a large share."""
MATCHING_CALLS = 0.6
"""Of feature matching: the encoder forward and backward; timed on the same small UNet."""
FAKE_GENERATOR_CALLS, GENERATOR_OWN_CALLS = 1, 3
"""Calls of G among `FAKE_CALLS` and `GENERATOR_CALLS`; all `MANIFOLD_CALLS` are. With `--student-steps K`
an image takes each of them K times."""

RECOMPUTING = 4 / 3
"""How much longer a pass with its backward pass takes with `--recompute`."""

REFINEMENT_TRAINED, REFINEMENT_FROZEN = 5, 2
"""Of --refine: the float32 numbers per parameter of the network that learns (it, its average, a gradient, two Adam
moments), and the frozen networks: the teacher and the start."""


class Costs(Protocol):
    """The costs of one kind of training.

    passes: of a training image, in forward passes of all networks; a backward pass counts as one or two.
    generator_passes: the part of the network that learns to make images; the others are of networks of the teacher's
    size. judging_graphs: the graphs of the teacher and the fake score that live at once with the generator's, per
    image.
    """

    passes: float
    generator_passes: float
    judging_graphs: int

    def state_bytes(self, teacher: Denoiser, precision: str, student: int, device: torch.device) -> int:
        """Bytes of weights, gradients and optimizers that training in a precision keeps on a device.

        student: the parameters of the generator. All is float32, except the teacher that the step calls in bf16.
        """


def costs_of(settings: DistillSettings, first_calls: int = 0) -> Costs:
    """The costs of the training that these settings ask for. first_calls: see `DistillationCosts`."""
    return DistillationCosts(settings, first_calls) if settings.refine is None else RefinementCosts(settings)


class DistillationCosts:
    """Of a distillation. The discriminator counts if `adversarial` is a number, and so does feature matching.

    first_calls: calls per image of a first network that stays as it is, because `--start` has a second one.
    """

    def __init__(self, settings: DistillSettings, first_calls: int = 0):
        self.settings, self.first_calls = settings, first_calls
        s = settings
        of_teacher, of_fake = _rows(s)
        own = FAKE_CALLS - FAKE_GENERATOR_CALLS + (TEACHER_CALLS if s.fake_score == "bounded" else 0)
        fake, judging = FAKE_GENERATOR_CALLS + of_fake * own, JUDGING_CALLS * (of_teacher + of_fake) / 2
        each = GENERATOR_OWN_CALLS + (FAKE_GENERATOR_CALLS * s.fake_steps if s.sidl_weight else 0)
        calls: float = GENERATOR_CALLS + (fake * s.fake_steps + judging if s.sidl_weight else 0)
        calls += (s.student_steps - 1) * each
        if s.adversarial_ratio(real=False):
            calls += DISCRIMINATOR_CALLS * s.discriminator_steps + ADVERSARIAL_CALLS
        if s.matching_ratio(real=False):
            calls += MATCHING_CALLS
        times = RECOMPUTING if s.recompute else 1
        made = 1 + (FAKE_GENERATOR_CALLS * s.fake_steps if s.sidl_weight else 0)  # how often a step makes images
        self.passes = (calls + _manifold_calls(s)) * times + first_calls * (made + _manifold_calls(s))
        self.generator_passes = (s.student_steps * each + _manifold_calls(s)) * times
        self.judging_graphs = of_teacher + of_fake if s.sidl_weight else 0

    def state_bytes(self, teacher: Denoiser, precision: str, student: int, device: torch.device) -> int:
        """See `Costs`."""
        parameters = _count(teacher)
        generator, fake = (adapter_parameters(teacher, rank) if rank else 0 for rank in self.settings.adapter_ranks())
        values = (VALUES_TRAINED - 1) * (fake or parameters) + STUDENT_TRAINED * (generator or student)
        values += self.first_calls * parameters
        # where no step calls the float32 teacher, it waits on the CPU
        if precision in DTYPES and (calls_float32(self.settings, precision) or device.type == "cpu"):
            values += parameters
        return FLOAT * values + bytes_for_autocast(teacher, precision)


class RefinementCosts:
    """Of `--refine K`: a call of the start, K of the teacher, unguided, and those of the network that learns."""

    judging_graphs = 0

    def __init__(self, settings: DistillSettings):
        self.generator_passes = GENERATOR_OWN_CALLS * (RECOMPUTING if settings.recompute else 1)
        self.passes = 1 + (settings.refine or 0) + self.generator_passes

    def state_bytes(self, teacher: Denoiser, precision: str, student: int, device: torch.device) -> int:
        """See `Costs`. It is the same on all devices."""
        frozen = bytes_for_autocast(teacher, precision) + (FLOAT * _count(teacher) if precision in DTYPES else 0)
        return FLOAT * REFINEMENT_TRAINED * student + REFINEMENT_FROZEN * frozen


def _count(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def _rows(settings: DistillSettings) -> tuple[int, int]:
    """The rows per image in the distillation loss's call of the teacher, and in the fake score's: 2 with guidance."""
    of_teacher, of_fake = (scale != 1 for scale in settings.guidance_scales())
    return 1 + (of_teacher or of_fake), 1 + of_fake


def _manifold_calls(settings: DistillSettings) -> float:
    form = FORMS.get(settings.irl)
    if form is None or settings.irl_gradient != "manifold" or settings.irl_weight == 0:
        return 0.0
    return settings.student_steps * MANIFOLD_CALLS * form.point_count / settings.pair_every / settings.irl_every
