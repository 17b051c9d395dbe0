"""The condition under which a teacher is trained on each image: none, its class, or its caption."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gsd_cli.base.errors import GsdError
from gsd_cli.core.models.condition import UNCONDITIONAL, Condition
from gsd_cli.core.models.prompts import Prompts
from gsd_cli.data.dataset import ImageArchive

DROPPED = 0.1
"""The share of images trained with the empty text, as guidance needs it (Ho and Salimans 2022)."""


@dataclass(frozen=True)
class FitConditions:
    """The condition of every image of a data set; by default none.

    classes: their number, for a class-conditional network. prompts: every caption once, for a text-conditional one.
    rows: int64 [N], the class or the prompt of each image.
    """

    classes: int | None = None
    prompts: Prompts | None = None
    rows: Tensor | None = None

    @property
    def text_sizes(self) -> tuple[int, int] | None:
        """The tokens of a text, and the numbers of a token's vector; None without texts."""
        embeddings = self.prompts.condition.embeddings if self.prompts is not None else None
        return None if embeddings is None else (embeddings.shape[1], embeddings.shape[2])

    def draw(self, indices: Tensor, generator: torch.Generator) -> Condition:
        """The condition of the images at `indices` [B]. Some rows of texts are the empty text, drawn by `generator`."""
        if self.rows is None:
            return UNCONDITIONAL
        rows = self.rows[indices]
        if self.prompts is None:
            return Condition(rows)
        kept = torch.rand(len(indices), generator=generator) >= DROPPED
        return self.prompts.condition.rows(rows).where(kept, self.prompts.empty)


def class_conditions(data: ImageArchive) -> FitConditions:
    """The classes of a data set. Raises GsdError (exit 3) without class labels."""
    if data.labels is None or data.labels.ndim != 1:
        raise GsdError(
            f"{data.path} has no class labels",
            hint="prepare it from one folder per class or with --labels FILE, or leave out --conditional",
        )
    count = max(int(data.labels.max()) + 1, len(data.record.get("classes") or ()))
    return FitConditions(count, rows=data.labels)


def caption_conditions(data: ImageArchive, prompts: Prompts) -> FitConditions:
    """The captions of a data set. prompts: all of `distinct_captions`, encoded."""
    number_of = {text: number for number, text in enumerate(prompts.texts)}
    return FitConditions(prompts=prompts, rows=torch.tensor([number_of[text] for text in _captions(data)]))


def distinct_captions(data: ImageArchive) -> list[str]:
    """Every caption of a data set once, in the order of the images. Raises GsdError (exit 3) without captions."""
    return list(dict.fromkeys(_captions(data)))


def _captions(data: ImageArchive) -> tuple[str, ...]:
    if data.captions is None:
        raise GsdError(f"{data.path} has no captions", hint="prepare it with --captions FILE and --force")
    return data.captions
