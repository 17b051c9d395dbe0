"""Estimates of what a distillation will need: memory by counting, time by measuring one call."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gsd_cli.base.launcher import process_count
from gsd_cli.catalogue.cost import STUDENT_TRAINED, VALUES_TRAINED
from gsd_cli.compute.device import DTYPES, autocast, bytes_for_autocast, choose_precision, synchronize
from gsd_cli.compute.distributed import World
from gsd_cli.core.distillation.growth import grow
from gsd_cli.core.distillation.isometric_forms import FORMS
from gsd_cli.core.distillation.placement import calls_float32
from gsd_cli.core.models.adapters import adapter_parameters
from gsd_cli.core.models.denoiser import Denoiser, per_image
from gsd_cli.options import DistillSettings

FLOAT = 4
FEWEST, TRIED = 2, 8
"""Images in the two calls that are timed on a CPU; the second is an upper limit."""
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

REFINEMENT_TRAINED, REFINEMENT_FROZEN = 5, 2
"""Of --refine: the float32 numbers per parameter of the network that learns (it, its average, a gradient, two Adam
moments), and the frozen networks: the teacher and the start."""


@dataclass(frozen=True)
class Estimate:
    """What one process of a run needs.

    parameters: of the teacher; student_parameters: of the generator; state_bytes: weights, gradients and
    optimizers, with `--shard` its piece of them; activation_bytes: what the backward passes of a generator step
    keep, float32; seconds_per_step: by a forward call of each size of network on this machine.
    """

    parameters: int
    student_parameters: int
    state_bytes: int
    activation_bytes: int
    seconds_per_step: float


def estimate(
    teacher: Denoiser, settings: DistillSettings, device: torch.device, world: World | None = None
) -> Estimate:
    """Memory and time of a distillation of `teacher` with these settings. Raises GsdError (exit 2) if the teacher
    cannot be grown to the student's size."""
    share = max(1, settings.batch_size // (world or World()).size)
    together = min(share, settings.micro_batch or share)
    parameters = own = sum(p.numel() for p in teacher.parameters())
    kept = own_kept = activation_bytes(teacher, recompute=settings.recompute)
    precision = _choose(teacher, settings, device, min(FEWEST, together))
    forward = own_forward = seconds_per_call(teacher, device, together, precision)
    if max(settings.student_width, settings.student_depth) > 1:
        student = grow(teacher, settings.student_width, settings.student_depth)
        own = sum(p.numel() for p in student.parameters())
        own_kept = activation_bytes(student, recompute=settings.recompute)
        own_forward = seconds_per_call(student, device, together, precision)
    state = count_state(teacher, settings, precision, own, device)
    state = state // process_count() if settings.shard else state
    # the generator's graph, and those of f and g at its images, live at once
    own_kept *= settings.student_steps
    judging = settings.sidl_weight and settings.refine is None
    activations = together * (own_kept + (sum(_rows(settings)) * kept if judging else 0))
    own_passes = generator_passes(settings)
    calls = share / together
    seconds = calls * ((passes(settings) - own_passes) * forward + own_passes * own_forward)
    return Estimate(parameters, own, state, activations, seconds)


def count_state(
    teacher: Denoiser, settings: DistillSettings, precision: str, student: int, device: torch.device
) -> int:  # fmt: skip
    """Bytes of weights, gradients and optimizers that training in a precision keeps on a device.

    student: the parameters of the generator. All is float32, except the teacher that the step calls in bf16.
    """
    parameters = sum(p.numel() for p in teacher.parameters())
    if settings.refine is not None:
        frozen = bytes_for_autocast(teacher, precision) + (FLOAT * parameters if precision in DTYPES else 0)
        return FLOAT * REFINEMENT_TRAINED * student + REFINEMENT_FROZEN * frozen
    generator, fake = (adapter_parameters(teacher, rank) if rank else 0 for rank in settings.adapter_ranks())
    values = (VALUES_TRAINED - 1) * (fake or parameters) + STUDENT_TRAINED * (generator or student)
    # where no step calls the float32 teacher, it waits on the CPU
    if precision in DTYPES and (calls_float32(settings, precision) or device.type == "cpu"):
        values += parameters
    return FLOAT * values + bytes_for_autocast(teacher, precision)


def passes(settings: DistillSettings) -> float:
    """The cost of a training image in forward passes of all networks; a backward pass counts as one or two. The
    discriminator counts if `adversarial` is a number, and so does feature matching. With --refine, the teacher
    counts as unguided."""
    if settings.refine is not None:
        return 1 + settings.refine + generator_passes(settings)
    of_teacher, of_fake = _rows(settings)
    own = FAKE_CALLS - FAKE_GENERATOR_CALLS + (TEACHER_CALLS if settings.fake_score == "bounded" else 0)
    fake, judging = FAKE_GENERATOR_CALLS + of_fake * own, JUDGING_CALLS * (of_teacher + of_fake) / 2
    calls: float = GENERATOR_CALLS + (fake * settings.fake_steps + judging if settings.sidl_weight else 0)
    calls += (settings.student_steps - 1) * _own_calls(settings)
    if settings.adversarial_ratio(real=False):
        calls += DISCRIMINATOR_CALLS * settings.discriminator_steps + ADVERSARIAL_CALLS
    if settings.matching_ratio(real=False):
        calls += MATCHING_CALLS
    return (calls + _manifold_calls(settings)) * (4 / 3 if settings.recompute else 1)


def _rows(settings: DistillSettings) -> tuple[int, int]:
    """The rows per image in the distillation loss's call of the teacher, and in the fake score's: 2 with guidance."""
    of_teacher, of_fake = (scale != 1 for scale in settings.guidance_scales())
    return 1 + (of_teacher or of_fake), 1 + of_fake


def generator_passes(settings: DistillSettings) -> float:
    """The part of `passes` of the generator; the others are of networks of the teacher's size."""
    if settings.refine is not None:
        return GENERATOR_OWN_CALLS * (4 / 3 if settings.recompute else 1)
    calls = settings.student_steps * _own_calls(settings)
    return (calls + _manifold_calls(settings)) * (4 / 3 if settings.recompute else 1)


def _own_calls(settings: DistillSettings) -> float:
    """The passes of one of the generator's calls per image: its update's, and those for the fake score's images."""
    return GENERATOR_OWN_CALLS + (FAKE_GENERATOR_CALLS * settings.fake_steps if settings.sidl_weight else 0)


def _manifold_calls(settings: DistillSettings) -> float:
    form = FORMS.get(settings.irl)
    if form is None or settings.irl_gradient != "manifold" or settings.irl_weight == 0:
        return 0.0
    return settings.student_steps * MANIFOLD_CALLS * form.point_count / settings.pair_every / settings.irl_every


def activation_bytes(model: Denoiser, *, recompute: bool) -> int:
    """Bytes that the backward pass of one image keeps, counted on a network without storage."""
    net = copy.deepcopy(model.net).to("meta").requires_grad_(True)
    if recompute:
        net.enable_gradient_checkpointing()
    weights = {p.untyped_storage()._cdata for p in net.parameters()}
    seen: dict[int, int] = {}
    kept: list[Tensor] = []  # while these exist, no address is used twice

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            seen[storage._cdata] = storage.nbytes()
            kept.append(tensor)
        return tensor

    # two batch sizes, since some layers save tensors that do not depend on it
    totals = []
    for batch in (1, 2):
        seen.clear()
        x = torch.empty(batch, *model.shape, device="meta", requires_grad=True)
        condition = model.conditions.first(batch).to("meta")
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            output = model.kind.call(net, x, torch.ones(batch, device="meta"), condition)
        totals.append(sum(seen.values()))
        del output
    return totals[1] - totals[0]


def seconds_per_call(model: Denoiser, device: torch.device, batch: int, precision: str) -> float:
    """Seconds of a forward call of `batch` images in a precision.

    On a GPU the call itself is timed, since small batches take as long as large ones. On a CPU that may take long: two
    smaller sizes are timed there and extrapolated.
    """
    if device.type != "cpu" or batch <= FEWEST:
        return seconds_of(model, device, batch, precision)
    few, many = FEWEST, min(TRIED, batch)
    small, large = (seconds_of(model, device, size, precision) for size in (few, many))
    each = max(0.0, large - small) / (many - few)
    return large + each * (batch - many)


@torch.no_grad()
def seconds_of(model: Denoiser, device: torch.device, batch: int, precision: str) -> float:
    """Seconds of one forward call of `batch`, the better of two after a warm-up."""
    net: nn.Module = copy.deepcopy(model.net).to(device).eval()
    x = torch.zeros(batch, *model.shape, device=device)
    condition = model.conditions.first(batch).to(device)
    taken = []
    for _ in range(3):
        synchronize(device)
        start = time.perf_counter()
        with autocast(device, precision):
            model.kind.call(net, x, torch.ones(batch, device=device), condition)
        synchronize(device)
        taken.append(time.perf_counter() - start)
    return min(taken[1:])


def _choose(model: Denoiser, settings: DistillSettings, device: torch.device, batch: int) -> str:
    """The precision that a run would choose, measured on fewer images."""
    net = copy.deepcopy(model).to(device).requires_grad_(True)
    x = torch.zeros(batch, *model.shape, device=device)
    condition = model.conditions.first(batch).to(device)

    def train() -> None:
        net(x, per_image(1.0, x), condition).float().square().mean().backward()

    return choose_precision(settings.precision, device, train)[0]
