"""What a network is conditioned on: nothing, classes or texts; one row per image."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from gsd_cli.base.errors import GsdError
from gsd_cli.compute.random import seed_numbers


@dataclass(frozen=True, eq=False)
class Condition:
    """The condition of B images: nothing, `classes` int64 [B], or texts.

    Of texts: embeddings [B, L, D], one vector per token, and where the network takes them mask [B, L], 1 for each token
    that counts; pooled [B, P], one vector for the whole text; time_ids [B, 6], the size and the crop of the image
    (SDXL: Podell et al., 2023, section 2.2).

    No tensor of it is ever changed, so that copies of a model share them. Two records are equal if they are one object.
    """

    classes: Tensor | None = None
    embeddings: Tensor | None = None
    mask: Tensor | None = None
    pooled: Tensor | None = None
    time_ids: Tensor | None = None

    @property
    def none(self) -> bool:
        """Whether it is that of an unconditional network, whatever the number of images."""
        return self.classes is None and self.embeddings is None

    def __len__(self) -> int:
        """Its rows, B; 0 without a condition."""
        found = self.embeddings if self.classes is None else self.classes
        return 0 if found is None else len(found)

    def __deepcopy__(self, memo: dict[int, Any]) -> Condition:
        return self

    def rows(self, rows: slice | Tensor) -> Condition:
        """The condition of some rows, by slice or by numbers (int64 [N], on its device or on the CPU)."""
        return self._map(lambda tensor: tensor[rows])

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Condition:
        """The same on a device, vectors in `dtype`."""
        return self._map(lambda t: t.to(device, dtype if t.is_floating_point() else None))

    def repeat(self, times: int) -> Condition:
        """All rows `times` times, one copy after the other."""
        return self._map(lambda tensor: tensor.repeat(times, *[1] * (tensor.ndim - 1)))

    def expand(self, count: int) -> Condition:
        """Its only row for each of `count` images, without a copy."""
        return self._map(lambda tensor: tensor.expand(count, *tensor.shape[1:]))

    def draw(self, numbers: Callable[[int], Tensor]) -> Condition:
        """A condition for each image of a batch, from all that there are: the rows that `numbers` chooses.

        numbers(n): int64 [B] in {0..n-1}; not called where there is no condition. All that draw a condition use this.
        """
        return self if self.none else self.rows(numbers(len(self)))

    def where(self, kept: Tensor, other: Condition) -> Condition:
        """Its rows where kept [B] is true, and the only row of `other` elsewhere."""
        given = zip(self._tensors(), other._tensors(), strict=True)
        return Condition(*(a if a is None or b is None else torch.where(_column(kept, a), a, b) for a, b in given))

    def first(self, count: int) -> Condition:
        """The first row for each of `count` images."""
        return self.rows(slice(1)).expand(count)

    def mix(self, other: Condition, share: Tensor) -> Condition:
        """A row for each share [N] of the way from its only row to that of `other`, both of texts: 0 is its own, 1 the
        other's, and shares outside of [0, 1] go beyond the two.

        Every vector is mixed linearly: token by token, the vector of the whole text, and the sizes. So do diffusers'
        pipeline `interpolate_stable_diffusion` and most others, for attention is linear in its keys' and values'
        inputs, and the vectors are outputs of a layer norm with an affine map: unlike latents they lie on no sphere.

        Between the ends the tokens count that count in both: the others are padding in one of the two, which the
        network has never seen. Raises GsdError (exit 3) for rows of unlike shapes.
        """
        shapes = [[None if t is None else t.shape for t in one._tensors()] for one in (self, other)]
        if shapes[0] != shapes[1] or self.embeddings is None:
            raise GsdError("these two conditions cannot be mixed", hint="give texts encoded for one teacher")

        def between(name: str, a: Tensor, b: Tensor) -> Tensor:
            a, b = (one.expand(len(share), *one.shape[1:]) for one in (a, b))
            if name == "mask":
                s = _column(share.to(a.device), a)
                return torch.where(s <= 0, a, torch.where(s >= 1, b, a * b))
            return torch.lerp(a, b, _column(share.to(a), a))

        triples = zip(NAMES, self._tensors(), other._tensors(), strict=True)
        return Condition(*(None if a is None or b is None else between(name, a, b) for name, a, b in triples))

    def require_text(self, *, whole: bool = False) -> Tensor:
        """The tokens' vectors, for a network that is conditioned on texts. Raises GsdError (exit 3) without any, and
        where `whole` is needed without the vector of the whole text."""
        if self.embeddings is None or (whole and self.pooled is None):
            raise GsdError("a text-conditional network was called without a text", hint="give prompts with --prompts")
        return self.embeddings

    @property
    def mark(self) -> int | str | None:
        """What tells a condition of one row from others: its class, or a digest of its text; None without one."""
        if self.classes is not None:
            return int(self.classes[0])
        if self.none:
            return None
        digest = hashlib.sha256()
        for name, tensor in zip(NAMES, self._tensors(), strict=True):
            if tensor is not None:
                digest.update(f"{name} {tuple(tensor.shape)} ".encode() + tensor.float().cpu().numpy().tobytes())
        return digest.hexdigest()

    def _tensors(self) -> list[Tensor | None]:
        return [getattr(self, name) for name in NAMES]

    def _map(self, change: Callable[[Tensor], Tensor]) -> Condition:
        return Condition(*(None if tensor is None else change(tensor) for tensor in self._tensors()))


NAMES = tuple(field.name for field in fields(Condition))
UNCONDITIONAL = Condition()
"""That of a network without a condition."""


def every_class(count: int | None) -> Condition:
    """All conditions of a network with this number of classes, a row each; none for an unconditional one."""
    return Condition(torch.arange(count)) if count else UNCONDITIONAL


def _column(kept: Tensor, like: Tensor) -> Tensor:
    """[B] as [B, 1, ...], to choose rows of `like` [B, ...]."""
    return kept.reshape(-1, *[1] * (like.ndim - 1))


def concatenate(parts: Sequence[Condition]) -> Condition:
    """The rows of all parts, which have the same kind of condition."""
    columns = zip(*(part._tensors() for part in parts), strict=True)
    return Condition(*(None if column[0] is None else torch.cat(column) for column in columns))


def seed_conditions(conditions: Condition, seeds: Sequence[int]) -> Condition:
    """The condition of each seed's image, uniform over all `conditions`."""
    return conditions.draw(lambda count: seed_numbers(seeds, count))
