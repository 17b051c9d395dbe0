"""Images of latents, with the changes to the generator that pivotal tuning or an edit asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from gsd_cli.compute.device import in_full_precision
from gsd_cli.core.latents.files import Anchor
from gsd_cli.core.models.condition import Condition
from gsd_cli.core.models.generator import Exported, Generator

Delta = Mapping[str, Tensor]
"""Changes of weights by parameter name."""


@torch.no_grad()
@in_full_precision
def render(
    generator: Generator,
    z: Tensor,
    deltas: Sequence[Delta] = (),
    shifts: Tensor | None = None,
    batch_size: int = 64,
    condition: Condition | None = None,
) -> Tensor:
    """Images [N, C, H, W] of latents z [N, *latent_shape], on the CPU, unclamped.

    deltas: changes of the weights, one per latent or none. shifts [N, c, h, w] are added to the
    bottleneck. condition: of one row or of N, by default the generator's. Where the generator has an exported form,
    that makes the images, unless weights change.
    """
    device = generator.device
    condition = generator.condition if condition is None else condition
    if len(condition) == 1:
        condition = condition.expand(len(z))
    own = any(deltas)
    made = []
    if not own and generator.exported is not None:
        return _render_exported(generator.exported, z, condition.to("cpu"), shifts, batch_size)
    for part in torch.arange(len(z)).split(1 if own else batch_size):
        with shift_bottleneck(generator, None if shifts is None else shifts[part]):
            latent, given = z[part].to(device), condition.rows(part).to(device)
            image = call_changed(generator, latent, deltas[int(part)], given) if own else generator(latent, given)
        made.append(image.float().cpu())
    return torch.cat(made)


def _render_exported(
    call: Exported, z: Tensor, condition: Condition, shifts: Tensor | None, batch_size: int
) -> Tensor:  # fmt: skip
    parts = torch.arange(len(z)).split(batch_size)
    return torch.cat([call(z[p], condition.rows(p), None if shifts is None else shifts[p]) for p in parts])


def call_changed(generator: Generator, z: Tensor, delta: Delta, condition: Condition | None = None) -> Tensor:
    """Call the generator with its weights changed by `delta` for this call alone: images of z [B, C, H, W].

    condition: of B images, by default the generator's.
    """
    if not delta:
        return generator(z, condition)
    parameters = dict(generator.named_parameters())
    changed = {name: parameters[name] + change.to(parameters[name]) for name, change in delta.items()}
    images: Tensor = functional_call(generator, changed, (z, condition))
    return images


def blend(a: Delta, b: Delta, s: float) -> Delta:
    """(1 - s) a + s b; a parameter missing in one counts as unchanged there."""
    if not a and not b:
        return {}
    zero = torch.zeros(())
    return {name: (1 - s) * a.get(name, zero) + s * b.get(name, zero) for name in sorted({*a, *b})}


@contextmanager
def _hook(generator: Generator, function: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
    handle = generator.hook_bottleneck(function)
    try:
        # a network compiled before the hook was added would not call it
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        handle.remove()


def shift_bottleneck(generator: Generator, shifts: Tensor | None) -> Any:
    """A context in which shifts [B, c, h, w] are added to the bottleneck's output, in the first call of an image."""
    if shifts is None:
        return nullcontext()
    return _hook(generator, lambda features: features + shifts.to(features))


def record_bottleneck(generator: Generator, seen: list[Tensor]) -> Any:
    """A context in which the bottleneck's outputs [B, c, h, w] are appended to `seen`, on the CPU: one per image."""
    return _hook(generator, lambda features: seen.append(features.float().cpu()))


@torch.no_grad()
def bottleneck_shape(generator: Generator) -> tuple[int, int, int]:
    """(c, h, w) of the bottleneck's map, which takes one call. Raises GsdError (exit 3) for a network without one."""
    seen: list[Tensor] = []
    z = torch.zeros(1, *generator.latent_shape, device=generator.device)
    with record_bottleneck(generator, seen):
        generator(z, generator.conditions.first(1).to(generator.device))
    channels, height, width = seen[0].shape[1:]
    return channels, height, width


def render_between(generator: Generator, a: Anchor, b: Anchor, z: Tensor, s: Tensor, batch_size: int = 64) -> Tensor:
    """Images of latents z [N, ...] at fractions s [N] of the way from a to b: the weight changes, residuals and
    conditions of the two images are mixed in these fractions."""
    deltas = [blend(a.delta, b.delta, share) for share in s.tolist()] if a.delta or b.delta else []
    made = []
    for part in torch.arange(len(z)).split(batch_size):  # the texts of all images at once may not fit memory
        own = deltas[part[0] : part[-1] + 1]
        made.append(render(generator, z[part], own, None, batch_size, condition_between(a, b, s[part])))
    return add_residuals(torch.cat(made), a, b, s)


def condition_between(a: Anchor, b: Anchor, s: Tensor) -> Condition | None:
    """The conditions at fractions s [N] of the way from a to b, on the CPU; None where they have none of their own."""
    if a.condition is None or b.condition is None:
        return None
    return a.condition.mix(b.condition, s.cpu())


def add_residuals(images: Tensor, a: Anchor, b: Anchor, s: Tensor) -> Tensor:
    """Images [N, C, H, W] at fractions s [N] of the way from a to b, with the residuals of both in these fractions."""
    share = s.reshape(-1, 1, 1, 1).to(images)
    for anchor, weight in ((a, 1 - share), (b, share)):
        if anchor.residual is not None:
            images = images + weight * anchor.residual
    return images
