"""Pictures of latents, with what a picture or an edit changes in the generator on the way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from gsd_cli.compute.device import in_full_precision
from gsd_cli.core.latents.files import Anchor
from gsd_cli.core.models.generator import Generator

Delta = Mapping[str, Tensor]


@torch.no_grad()
@in_full_precision
def render(
    generator: Generator,
    z: Tensor,
    deltas: Sequence[Delta] = (),
    shifts: Tensor | None = None,
    batch_size: int = 64,
) -> Tensor:
    """Images [N, C, H, W] of latents z [N, *latent_shape], on the CPU, unclamped.

    deltas: changes of the weights for each latent, or none at all. shifts: what is added to the
    bottleneck, [N, c, h, w].
    """
    device = generator.device
    own = any(deltas)
    made = []
    for part in torch.arange(len(z)).split(1 if own else batch_size):
        with moved_bottleneck(generator, None if shifts is None else shifts[part]):
            latent = z[part].to(device)
            image = call(generator, latent, deltas[int(part)]) if own else generator(latent)
        made.append(image.float().cpu())
    return torch.cat(made)


def call(generator: Generator, z: Tensor, delta: Delta) -> Tensor:
    """The generator with its weights changed by `delta` (by parameter name) for this call alone."""
    if not delta:
        return generator(z)
    parameters = dict(generator.named_parameters())
    changed = {name: parameters[name] + change.to(parameters[name]) for name, change in delta.items()}
    images: Tensor = functional_call(generator, changed, (z,))
    return images


def blend(a: Delta, b: Delta, s: float) -> Delta:
    """(1 - s) a + s b; what is missing in one is 0."""
    if not a and not b:
        return {}
    zero = torch.zeros(())
    return {name: (1 - s) * a.get(name, zero) + s * b.get(name, zero) for name in sorted({*a, *b})}


@contextmanager
def _hook(generator: Generator, function: Any) -> Iterator[None]:
    handle = generator.denoiser.net.mid_block.register_forward_hook(function)
    try:
        # what was compiled before the hook was there would never call it
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        handle.remove()


def moved_bottleneck(generator: Generator, shifts: Tensor | None) -> Any:
    """A context in which shifts [B, c, h, w] are added to the mid block's output."""
    if shifts is None:
        return nullcontext()
    return _hook(generator, lambda _module, _inputs, output: output + shifts.to(output))


def watched_bottleneck(generator: Generator, seen: list[Tensor]) -> Any:
    """A context in which the mid block's outputs [B, c, h, w] are appended to `seen`, on the CPU."""
    return _hook(generator, lambda _module, _inputs, output: seen.append(output.float().cpu()))


def between(generator: Generator, a: Anchor, b: Anchor, z: Tensor, s: Tensor, batch_size: int = 64) -> Tensor:
    """Images of latents z [N, ...] at shares s [N] of the way from a to b: the weights' changes and the
    residuals of the two pictures are mixed in these shares."""
    deltas = [blend(a.delta, b.delta, share) for share in s.tolist()] if a.delta or b.delta else []
    images = render(generator, z, deltas, batch_size=batch_size)
    share = s.reshape(-1, 1, 1, 1).to(images)
    for anchor, weight in ((a, 1 - share), (b, share)):
        if anchor.residual is not None:
            images = images + weight * anchor.residual
    return images
