"""A student larger than its teacher that starts as the same function: Net2Net (Chen et al., ICLR 2016).

Wider: every channel is repeated side by side, which keeps the statistics of group normalisation, and a layer
that reads K equal copies divides its weights among them in unequal shares. Deeper: the layers added to a block
return their input. The result is an ordinary UNet2DModel with other numbers in its config; the names of its
blocks and config keys are in `models/unet2d.py`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from gsd_cli.base.errors import ExitCode, GsdError
from gsd_cli.compute.random import generator_for
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.models.unet2d import (
    RESIDUAL_LAYERS,
    find_growth_obstacle,
    find_origin,
    grow_config,
    is_query,
    last_layer,
    shortcut,
    sinusoid_readers,
)

JITTER = 1.0
"""Standard deviation of the noise in the shares of equal copies, in that of the shares. With equal shares copies would
get equal gradients, and stay one channel. On ddpm-fashion at twice the width the gradients of two copies have a mean
cosine of 0.996 at a noise of 0.1, of 0.71 at 1 (with a norm 2 % larger in all) and of -0.95 at 3."""
_LAYERS = (nn.Conv2d, nn.Linear, nn.GroupNorm, nn.Embedding)


@torch.no_grad()
def grow(denoiser: Denoiser, width: int = 1, depth: int = 1, seed: int = 0) -> Denoiser:
    """A copy of `denoiser` with `width` times the channels and `depth` times the layers per block.

    It is the same function at every input, noise level and class, up to float32 rounding. Its weights depend on
    the denoiser's and `seed` alone. Raises GsdError (exit 2) for a network that cannot be grown.
    """
    if width == depth == 1:
        return copy.deepcopy(denoiser)
    old = denoiser.net
    require_growable(old, width, depth)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator_for(seed, "growth").initial_seed())
        new = type(old).from_config(grow_config(old.config, width, depth))
        _copy_weights(old, new, width, depth)
    grown = Denoiser(new.to(old.device), denoiser.schedule, denoiser.prediction, chain=denoiser.chain)
    return grown.train(denoiser.training)


def require_growable(net: Any, width: int, depth: int) -> None:
    """Raise GsdError (exit 2) with the reason for a network that cannot be copied into one of this size."""
    if obstacle := find_growth_obstacle(net, width, depth):
        raise _refusal(obstacle)
    for name, module in _with_weights(net):
        if not isinstance(module, _LAYERS):
            raise _refusal(f"a network with a {type(module).__name__} ({name}) cannot be grown")


def _refusal(message: str) -> GsdError:
    hint = "leave out --student-width and --student-depth, or distil another teacher"
    return GsdError(message, hint=hint, code=ExitCode.USAGE)


def _with_weights(net: nn.Module) -> Iterator[tuple[str, Any]]:
    """The modules that have parameters of their own, by name."""
    for name, module in net.named_modules():
        if next(module.parameters(recurse=False), None) is not None:
            yield name, module


def _copy_weights(old: Any, new: Any, width: int, depth: int) -> None:
    """Fill `new`, the network of `grow_config`, so that it is the same function as `old`."""
    config, sources = old.config, dict(old.named_modules())
    sinusoids = sinusoid_readers(config)
    for name, module in _with_weights(new):
        if (origin := find_origin(name, config, depth)) is None:
            continue
        if name in sinusoids:
            _spread(sources[origin], module, width)
        else:
            _widen(sources[origin], module)
        if is_query(name):  # products of K-fold queries and keys are K-fold, divided by sqrt(K) more
            module.weight.mul_(width**-0.5)
            module.bias.mul_(width**-0.5)
    for name, module in new.named_modules():
        if type(module).__name__ in RESIDUAL_LAYERS and find_origin(name, config, depth) is None:
            _pass_through(module)


def _widen(old: nn.Module, new: nn.Module) -> None:
    """Weights of a layer whose inputs, outputs or both are repeated."""
    for name, value in new.named_parameters(recurse=False):
        before = getattr(old, name).cpu().double()
        if isinstance(new, nn.Embedding):  # [numbers, channels], the other way round than a layer's [out, in]
            value.copy_(before.repeat_interleave(value.shape[1] // before.shape[1], 1))
        else:
            repeated = before.repeat_interleave(value.shape[0] // before.shape[0], 0)
            value.copy_(_shares(repeated, value.shape[1] // before.shape[1]) if before.ndim > 1 else repeated)


def _shares(weight: Tensor, copies: int) -> Tensor:
    """A weight [out, in, ...] divided among equal copies of its inputs: [out, in * copies, ...], sums kept."""
    if copies == 1:
        return weight
    shares = (weight / copies).unsqueeze(2).repeat_interleave(copies, 2)
    noise = JITTER * shares.std() * torch.randn(shares.shape, dtype=shares.dtype)
    return (shares + noise - noise.mean(2, keepdim=True)).flatten(1, 2)


def _spread(old: Any, new: Any, width: int) -> None:
    """The layer that reads sines and cosines of t: old frequencies are each `width`-th of the new; others weigh 0."""
    before, after = old.in_features // 2, new.in_features // 2
    places = width * torch.arange(before)
    rows = new.out_features // old.out_features
    new.weight.zero_()
    new.weight[:, torch.cat([places, after + places])] = old.weight[:, : 2 * before].cpu().repeat_interleave(rows, 0)
    new.bias.copy_(old.bias.cpu().repeat_interleave(rows, 0))


def _pass_through(layer: nn.Module) -> None:
    """Make an added residual block or attention return its input; of [hidden, skip] channels the hidden ones."""
    last: Any = last_layer(layer)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    other: Any = shortcut(layer)
    if other is not None:
        nn.init.dirac_(other.weight)
        nn.init.zeros_(other.bias)
