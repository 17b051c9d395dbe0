"""The whole generator as one function of tensors: what an exported file computes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from math import prod

import torch
from torch import Tensor, nn

from gsd_cli.base.errors import GsdError
from gsd_cli.core.latents.render import bottleneck_shape
from gsd_cli.core.models.condition import NAMES, UNCONDITIONAL, Condition
from gsd_cli.core.models.few_steps import permutation, reorder
from gsd_cli.core.models.generator import Generator

LATENT, SHIFT, CLASS, IMAGES = "z", "shift", "class", "images"
"""The names of inputs and of the output. Those of a text are the names of a `Condition`'s tensors."""
REORDERING = ("order", "signs")
"""The names of the buffers that make a later step's noise."""
EXAMPLES = 2
"""Images of the call that is recorded: with one, the recorder would take the batch for a constant."""


class ExportedGenerator(nn.Module):
    """G(z) clamped to [-1, 1], with an edit of the bottleneck and the condition as inputs, autoencoder inside.

    forward(z [B, *latent_shape], shift [B, c, h, w] where the network has a bottleneck, then the condition's tensors,
    in the order of `names`): images [B, *image_shape]. The generator is frozen; one on another device is copied.
    """

    def __init__(self, generator: Generator, *, with_shift: bool = True):
        super().__init__()
        here = generator if generator.device.type == "cpu" else copy.deepcopy(generator).cpu()
        self.generator = here.float().eval().requires_grad_(False)
        self.shift_shape = find_shift_shape(generator) if with_shift else None
        self.sigma: Tensor
        self.time: Tensor
        sigma = torch.tensor(generator.sigmas)
        self.register_buffer("sigma", sigma)
        # constants: the search in the schedule stays out of the file
        steps = range(generator.calls)
        times = [generator.network(step + 1).schedule.timestep(sigma[step : step + 1]) for step in steps]
        self.register_buffer("time", torch.cat(times))
        for step in range(1, generator.calls):  # buffers, because a recorder would put its own tensors into the cache
            for name, value in zip(REORDERING, permutation(prod(generator.latent_shape), step), strict=True):
                self.register_buffer(f"{name}_{step}", value.on(sigma.device))

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the inputs, in their order."""
        shift = () if self.shift_shape is None else (SHIFT,)
        return LATENT, *shift, *condition_names(self.generator.denoiser.conditions)

    def examples(self) -> dict[str, Tensor]:
        """Inputs of EXAMPLES images, by name."""
        generator = torch.Generator().manual_seed(0)
        found = {LATENT: torch.randn(EXAMPLES, *self.generator.latent_shape, generator=generator)}
        if self.shift_shape is not None:
            found[SHIFT] = torch.zeros(EXAMPLES, *self.shift_shape)
        condition = self.generator.denoiser.conditions.first(EXAMPLES)
        return found | {name: value.contiguous() for name, value in condition_inputs(condition).items()}

    def forward(self, *inputs: Tensor) -> Tensor:
        """The images of the inputs that `names` names."""
        given = dict(zip(self.names, inputs, strict=True))
        # the number of images as `shape[0]`: `len` would make it a constant
        z, denoiser = given[LATENT], self.generator.denoiser
        shift = given.get(SHIFT)
        handle = None if shift is None else denoiser.hook_bottleneck(_add(shift))
        try:
            clean = self._call(0, self.generator.sigma_init * z, given)
        finally:
            if handle is not None:
                handle.remove()
        for step, level in enumerate(self.generator.sigmas[1:], 1):
            clean = self._call(step, clean + level * self._later_noise(z, step), given)
        return self.generator.autoencoder.decode(clean).clamp(-1, 1)

    def _later_noise(self, z: Tensor, step: int) -> Tensor:
        return reorder(z, *(self.get_buffer(f"{name}_{step}") for name in REORDERING))

    def _call(self, step: int, x: Tensor, given: dict[str, Tensor]) -> Tensor:
        """The clean estimate of one call of the network, from the noisy image x [B, *latent_shape]."""
        denoiser, one = self.generator.network(step + 1), slice(step, step + 1)
        sigma, time = self.sigma[one].expand(x.shape[0]), self.time[one].expand(x.shape[0])
        raw = denoiser.kind.call(denoiser.net, denoiser.precondition.input(x, sigma), time, to_condition(given))
        return denoiser.clean(raw[:, : x.shape[1]], x, sigma)  # a predicted variance comes second


def _add(shift: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda features: features + shift


def find_shift_shape(generator: Generator) -> tuple[int, int, int] | None:
    """(c, h, w) of the bottleneck's map; None for a network without one."""
    try:
        return bottleneck_shape(generator)
    except GsdError:
        return None


def condition_inputs(condition: Condition) -> dict[str, Tensor]:
    """The tensors of a condition by the names of the file's inputs."""
    tensors = {name: getattr(condition, name) for name in NAMES}
    return {_input_name(name): value for name, value in tensors.items() if value is not None}


def condition_names(condition: Condition) -> tuple[str, ...]:
    """The names of the inputs for conditions of this kind."""
    return tuple(condition_inputs(condition))


def to_condition(given: dict[str, Tensor]) -> Condition:
    """The condition among inputs by name."""
    found = {name: given[_input_name(name)] for name in NAMES if _input_name(name) in given}
    return Condition(**found) if found else UNCONDITIONAL


def _input_name(name: str) -> str:
    return CLASS if name == "classes" else name
