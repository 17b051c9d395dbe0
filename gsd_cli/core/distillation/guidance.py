"""Classifier-free guidance (Ho and Salimans 2022) in a distillation, as SiD-LSG uses it (Zhou et al. 2024).

    D_k(x, c) = D(x, null) + k (D(x, c) - D(x, null))

`--guidance K`: long and short guidance, the teacher and the fake score with the same K. The fake score is trained on
its guided estimate, so that at its optimum D_K of the generator's images is matched with D_K of the teacher's.
`--guidance teacher:K`: the teacher alone; the generator's images are those of the guided distribution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gsd_cli.base.errors import UsageError
from gsd_cli.core.distillation.draws import Draws
from gsd_cli.core.models.condition import UNCONDITIONAL, Condition, concatenate
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.options import DistillSettings

DROPPED = 0.1
"""The share of rows in which a guided fake score is trained on the null condition, as in SiD-LSG."""


@dataclass(frozen=True)
class Guidance:
    """The scales of the teacher and of the fake score; 1 is no guidance. null: the null condition, one row."""

    teacher: float = 1.0
    fake: float = 1.0
    null: Condition = UNCONDITIONAL

    def drop(self, condition: Condition, draws: Draws, *stream: int | str) -> Condition:
        """The condition of B images with the null condition in a share DROPPED of the rows, which `draws` chooses.

        Only a guided fake score is ever called with the null condition.
        """
        if self.fake == 1:
            return condition
        return condition.where(draws.uniform(*stream, "drop") >= DROPPED, self.null)

    def estimates(
        self, model: nn.Module, x: Tensor, sigma: Tensor, condition: Condition, scales: Sequence[float]
    ) -> list[Tensor]:  # fmt: skip
        """D_k(x, c) for each k of `scales`, float32 [B, C, H, W], from one call of the model with 2 B rows.

        One call, since a network shared between processes may be called once per backward pass. Without guidance it has
        B rows.
        """
        if all(scale == 1 for scale in scales):
            return [model(x, sigma, condition).float()] * len(scales)
        both = concatenate([self.null.expand(len(x)), condition])
        free, own = model(torch.cat([x, x]), torch.cat([sigma, sigma]), both).float().chunk(2)
        return [own if scale == 1 else free + scale * (own - free) for scale in scales]


def build_guidance(settings: DistillSettings, teacher: Denoiser, device: torch.device) -> Guidance:
    """The guidance of `--guidance`. Raises UsageError for a teacher that was not trained with a null condition."""
    of_teacher, of_fake = settings.guidance_scales()
    if (of_teacher, of_fake) == (1.0, 1.0):
        return Guidance()
    require_null_condition(teacher)
    return Guidance(of_teacher, of_fake, teacher.null_condition.to(device))


def require_null_condition(teacher: Denoiser) -> None:
    """Raise UsageError for a teacher that cannot be guided, because it was not trained with a null condition."""
    if teacher.null_condition.none:
        raise UsageError([f"--guidance: {_explain(teacher)}"], hint=_advise(teacher))


def _explain(teacher: Denoiser) -> str:
    if teacher.conditions.none:
        return "the teacher is unconditional, and guidance is the difference that a condition makes"
    if teacher.kind.text_sizes(teacher.net) is not None:
        return "the file of prompts has no empty prompt, because an earlier version of gsd wrote it"
    return "the teacher was not trained with a null class, so it has no estimate without a class"


def _advise(teacher: Denoiser) -> str:
    if not teacher.conditions.none and teacher.kind.text_sizes(teacher.net) is not None:
        return "encode the prompts again: gsd prepare PROMPTS.txt --teacher T --force"
    return "leave out --guidance; DiT and text-conditional teachers can be guided"
