"""The whole generator as one function of tensors: what an exported file computes."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from gsd_cli.base.errors import GsdError
from gsd_cli.core.latents.render import bottleneck_shape
from gsd_cli.core.models.condition import NAMES, UNCONDITIONAL, Condition
from gsd_cli.core.models.generator import Generator

LATENT, SHIFT, CLASS, IMAGES = "z", "shift", "class", "images"
"""The names of inputs and of the output. Those of a text are the names of a `Condition`'s tensors."""
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
        sigma = torch.tensor([generator.sigma_init])
        self.register_buffer("sigma", sigma)
        # a constant: the search in the schedule stays out of the file
        self.register_buffer("time", generator.denoiser.schedule.timestep(sigma).clone())

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
            x, sigma = self.generator.sigma_init * z, self.sigma.expand(z.shape[0])
            noisy = denoiser.precondition.input(x, sigma)
            raw = denoiser.kind.call(denoiser.net, noisy, self.time.expand(z.shape[0]), to_condition(given))
        finally:
            if handle is not None:
                handle.remove()
        clean = denoiser.clean(raw[:, : z.shape[1]], x, sigma)  # a predicted variance comes second
        return self.generator.autoencoder.decode(clean).clamp(-1, 1)


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
