"""The adversarial term, after SiDA (Zhou et al., ICLR 2025): the fake score's encoder tells real pictures
from made ones. No parameter is added: the mean over channels of the mid block's output is a map of logits.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn

from gsd_cli.core.denoiser import Denoiser
from gsd_cli.core.draws import Draws
from gsd_cli.data.archive import ImageArchive
from gsd_cli.errors import ExitCode, GsdError


@dataclass(frozen=True)
class Real:
    """Real images [B, C, H, W] in [-1, 1], and their classes int64 [B] for a conditional teacher."""

    images: Tensor
    labels: Tensor | None


class Adversary:
    """Where the real images of a step come from, and what share of the loss the term has.

    Raises GsdError (exit 2) when there are none, or when the teacher cannot judge them.
    """

    def __init__(self, weight: float, data: ImageArchive | None, teacher: Denoiser):
        self.weight, self.data = weight, data
        self.classes = teacher.classes
        if not weight:
            return
        if data is None:
            raise _unfit("the adversarial term needs real pictures", "give --data DATA.zip, or --adversarial 0")
        if tuple(data.shape) != teacher.shape:
            raise _unfit(
                f"the adversarial term works on pictures of {tuple(data.shape)}, the teacher on {teacher.shape}",
                "a latent teacher is distilled without it",
            )
        if teacher.classes and (data.labels is None or data.labels.ndim != 1):
            raise _unfit(f"{data.path} has no classes, the teacher has", "prepare it with --labels")
        if teacher.net.mid_block is None:
            raise _unfit("the teacher has no middle block to judge with", "distil it without --adversarial")

    def draw(self, draws: Draws, *stream: int | str) -> Real | None:
        """The real images of a step; None while the term is off."""
        if not self.weight or self.data is None:
            return None
        indices = draws.integers(len(self.data), *stream, "real")
        labels = self.data.labels[indices].to(draws.device) if self.classes and self.data.labels is not None else None
        return Real(self.data.batch(indices).to(draws.device), labels)


def _unfit(message: str, hint: str) -> GsdError:
    return GsdError(message, hint=hint, code=ExitCode.USAGE)


@contextmanager
def logits_of(judge: Denoiser | None) -> Iterator[list[Tensor]]:
    """Collects a map of logits [B, h, w] from each pass through `judge`, positive for real; None: nothing."""
    maps: list[Tensor] = []
    if judge is None:
        yield maps
        return

    def keep(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        maps.append(output.float().mean(1))

    handle = judge.net.mid_block.register_forward_hook(keep)
    try:
        yield maps
    finally:
        handle.remove()
