"""A diffusion model of any kind as a denoiser D(x, sigma)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gsd_cli.base.errors import GsdError
from gsd_cli.core.models.chain import Chain
from gsd_cli.core.models.condition import UNCONDITIONAL, Condition, concatenate, every_class
from gsd_cli.core.models.network_kind import NetworkKind
from gsd_cli.core.models.precondition import Precondition
from gsd_cli.core.models.schedule import ContinuousSchedule, NoiseSchedule
from gsd_cli.core.models.text_sizes import TextSizes
from gsd_cli.core.models.unet2d import UNET2D

GSD_CHAIN = Chain()
"""How the teachers that gsd trains are sampled."""


class Denoiser(nn.Module):
    """D(x, sigma): the estimate of the clean image y in x = y + sigma n.

    `schedule` says at which noise levels the network was trained and what time it is given, `prediction` (a key of
    `schedule.outputs`) what its output means. `kind` knows the network's blocks and config.
    The estimate is not clipped: a clamp would cut the gradient. `chain` says how the model's own samplers
    limit it, and how those of a DDPM step.

    A conditional network takes its condition from the call or from the view of `with_condition`. `guidance` is the
    scale of `with_guidance`, 1 without.
    """

    def __init__(
        self,
        net: nn.Module,
        schedule: NoiseSchedule,
        prediction: str = "epsilon",
        *,
        chain: Chain = GSD_CHAIN,
        kind: NetworkKind = UNET2D,
    ):
        super().__init__()
        if prediction not in schedule.outputs:
            raise GsdError(
                f"unsupported prediction type {prediction!r}",
                hint=f"a teacher with this noise schedule must predict one of: {', '.join(schedule.outputs)}",
            )
        kind.prepare(net)
        self.net: Any = net
        self.kind = kind
        self.schedule = schedule.within(kind.flow_pipeline(net))
        self.prediction = prediction
        self.chain = chain
        self.condition = UNCONDITIONAL
        self.prompts = UNCONDITIONAL
        self.empty_prompt = UNCONDITIONAL
        self.guidance = 1.0
        self._null = UNCONDITIONAL

    def with_condition(self, condition: Condition) -> Denoiser:
        """A view of this model, weights shared, with a fixed condition: of B images, or one row for any number."""
        view = copy.copy(self)
        view.condition = condition
        return view

    def with_guidance(self, scale: float) -> Denoiser:
        """A view of this model, weights shared, under classifier-free guidance (Ho and Salimans 2022):
        D(x, null) + scale (D(x, c) - D(x, null)), from one call with twice the rows.

        The model must have a `null_condition`.
        """
        view = copy.copy(self)
        view.guidance, view._null = scale, self.null_condition.to(self.device)
        return view

    @property
    def precondition(self) -> Precondition:
        """The meaning of the network's output."""
        return self.schedule.outputs[self.prediction]

    @property
    def clip_sample(self) -> bool:
        """Whether the model's own samplers limit the clean estimate, as those of a DDPM of pixels do."""
        return self.chain.limits and not isinstance(self.schedule, ContinuousSchedule)

    @property
    def device(self) -> torch.device:
        """The device of its weights."""
        parameter: Tensor = next(self.parameters())
        return parameter.device

    @property
    def classes(self) -> int | None:
        """The number of classes the network is conditioned on; None for an unconditional one."""
        return self.kind.classes(self.net)

    @property
    def conditions(self) -> Condition:
        """All conditions that the model is used with, a row each, on the CPU: its classes, or its prompts."""
        return every_class(self.classes) if self.prompts.none else self.prompts

    @property
    def null_condition(self) -> Condition:
        """The condition that was trained to stand for any, one row on the CPU: a null class, or the empty prompt.

        UNCONDITIONAL for a model without one.
        """
        null = self.kind.null_class(self.net)
        return self.empty_prompt if null is None else Condition(torch.tensor([null]))

    def give_prompts(self, prompts: Condition, empty: Condition = UNCONDITIONAL) -> None:
        """Set the texts that the model is used with, a row each, on the CPU; empty: the empty prompt, if it is known.

        Raises GsdError (exit 3) unless it takes texts, and these.
        """
        self.require_prompts(prompts)
        self.prompts, self.empty_prompt = prompts, empty

    def require_prompts(self, prompts: Condition) -> None:
        """Raise GsdError (exit 3) unless it takes texts, and these."""
        sizes = self.kind.text_sizes(self.net)
        if sizes is None or prompts.embeddings is None:
            raise GsdError("the model is not text-conditional", hint="leave out the prompts")
        whole = None if prompts.pooled is None else prompts.pooled.shape[1]
        found = TextSizes(prompts.embeddings.shape[2], whole, prompts.time_ids is not None, prompts.mask is not None)
        if found != sizes:
            raise GsdError(
                f"the prompts have vectors of {found} numbers, the model takes {sizes}",
                hint="encode them for the model's own teacher: gsd prepare PROMPTS.txt --teacher T",
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the space this model denoises: images, or an autoencoder's latents."""
        return self.kind.shape(self.net)

    def forward(self, x: Tensor, sigma: Tensor, condition: Condition | None = None) -> Tensor:
        """x: [B, C, H, W] = y + sigma n; sigma: [B] > 0; condition: of B images, or one row
        for all; by default the view's.

        Returns the clean estimate [B, C, H, W], about [-1, 1].
        """
        return self.clean(self.raw(x, sigma, condition), x, sigma)

    def clean(self, raw: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
        """The clean estimate that the network's output `raw` stands for; shapes as in `forward`."""
        return self.precondition.clean(raw, x, sigma.reshape(-1, 1, 1, 1))

    def raw(self, x: Tensor, sigma: Tensor, condition: Condition | None = None) -> Tensor:
        """The network's prediction [B, C, H, W] for the arguments of `forward`, without a predicted variance."""
        return self.raw_and_variance(x, sigma, condition)[0]

    def raw_and_variance(
        self, x: Tensor, sigma: Tensor, condition: Condition | None = None
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        """The network's prediction [B, C, H, W], and the second half of its channels if it has twice as many.

        The second half stands for the variance of an ancestral step (`Chain.deviation`); nothing else reads it.
        """
        condition = self.condition if condition is None else condition
        if len(condition) == 1 != len(x):
            condition = condition.expand(len(x))
        if self.guidance == 1:
            return self._call(x, sigma, condition)
        both = concatenate([self._null.expand(len(x)), condition])
        raw, variance = self._call(torch.cat([x, x]), torch.cat([sigma, sigma]), both)
        free, own = raw.chunk(2)
        # D is affine in the network's output, so that this guides D as well
        return free + self.guidance * (own - free), None if variance is None else variance[len(x) :]

    def _call(self, x: Tensor, sigma: Tensor, condition: Condition) -> tuple[Tensor, Tensor | None]:
        """`raw_and_variance` without guidance."""
        output = self.kind.call(self.net, self.precondition.input(x, sigma), self.schedule.timestep(sigma), condition)
        channels = x.shape[1]
        if output.shape[1] == channels:
            return output, None
        return output[:, :channels], output[:, channels:]

    def read_as(self, prediction: str, schedule: NoiseSchedule) -> Denoiser:
        """A model of the same network whose output means something else."""
        view = copy.copy(self)
        view.prediction, view.schedule = prediction, schedule.within(self.kind.flow_pipeline(self.net))
        return view

    def amplification(self, sigma: Tensor) -> Tensor:
        """The change of the clean estimate per unit change of the network's output, of sigma's shape."""
        return self.precondition.amplification(sigma)

    def encode(self, x: Tensor, sigma: Tensor, *, full: bool = False) -> list[Tensor]:
        """The network's encoder maps of x [B, C, H, W] at sigma [B], [B, c, h, w] each, the bottleneck last.

        The decoder is not run. The condition is left out, so that a feature is a function of the image
        alone. full: the map of full resolution, before the first downsampling, comes first.
        """
        time = self.schedule.timestep(sigma).expand(len(x))
        return self.kind.encode(self.net, self.precondition.input(x, sigma), time, full)

    def hook_bottleneck(self, function: Callable[[Tensor], Tensor | None]) -> RemovableHandle:
        """Call function(map [B, c, h, w]) with the coarsest encoder map of every call; a map that it returns replaces
        it. Raises GsdError (exit 3) for a network without one."""
        kind, net = self.kind, self.net

        def hook(_module: nn.Module, _inputs: Any, output: Any) -> Any:
            changed = function(kind.to_map(net, output))
            return None if changed is None else kind.from_map(net, changed, output)

        return kind.bottleneck(net).register_forward_hook(hook)

    def output_layers(self) -> tuple[str, ...]:
        """The names, in this module, of the layers nearest to the pixels."""
        return tuple(f"net.{name}" for name in self.kind.output_layers(self.net))


def per_image(value: float, like: Tensor) -> Tensor:
    """A [B] tensor filled with `value`, on the device and in the type of `like` [B, ...]."""
    return torch.full((len(like),), value, device=like.device, dtype=like.dtype)
