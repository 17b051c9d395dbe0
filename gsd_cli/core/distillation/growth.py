"""A student larger than its teacher that starts as the same function: Net2Net (Chen et al., ICLR 2016).

Wider: every channel is repeated side by side, which leaves the statistics of a group normalisation as they are,
and a layer that reads K equal copies divides its weights among them in unequal shares. Deeper: the layers added
to a block return what they are given. The result is an ordinary UNet2DModel with other numbers in its config.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from gsd_cli.base.errors import ExitCode, GsdError
from gsd_cli.compute.random import generator_for
from gsd_cli.core.models.config_check import DEEPEST, LARGEST
from gsd_cli.core.models.denoiser import Denoiser

JITTER = 1.0
"""Standard deviation of the noise in the shares of equal copies, in that of the shares. With equal shares copies would
get equal gradients, and stay one channel. On ddpm-fashion at twice the width the gradients of two copies have a mean
cosine of 0.996 at a noise of 0.1, of 0.71 at 1 (with a norm 2 % larger in all) and of -0.95 at 3."""
BLOCKS = frozenset(
    ("DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D", "UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D")
)
"""Blocks whose layers add to what they are given, unscaled, and whose groups do not depend on the width."""
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
        new = type(old).from_config(grown_config(old.config, width, depth))
        _copy_weights(old, new, width, depth)
    grown = Denoiser(new.to(old.device), denoiser.schedule, denoiser.prediction, clip_sample=denoiser.clip_sample)
    return grown.train(denoiser.training)


def grown_config(config: Any, width: int, depth: int) -> dict[str, Any]:
    """The config of a UNet2DModel with `width` times the channels and `depth` times the layers per block."""
    # diffusers' own notes go: they name the values left at their defaults, which it would then ignore
    grown = {name: value for name, value in config.items() if not name.startswith("_")}
    channels = config["block_out_channels"]
    grown["block_out_channels"] = [width * c for c in channels]
    grown["layers_per_block"] = depth * config["layers_per_block"]
    for name in ("attention_head_dim", "time_embedding_dim"):
        if config.get(name) is not None:
            grown[name] = width * config[name]
    # frequency k of n is 10000^(-k / (n - shift)): with this shift the new number (width k) is the old number k
    before, after = channels[0] // 2, width * channels[0] // 2
    grown["freq_shift"] = after - width * (before - config["freq_shift"])
    return grown


def require_growable(net: Any, width: int, depth: int) -> None:
    """Raise GsdError (exit 2), naming why, for a network that cannot be copied into one of this size."""
    if type(net).__name__ != "UNet2DModel":
        raise _refusal(f"a {type(net).__name__} cannot be grown, only a UNet2DModel")
    config = net.config
    kinds = {kind.removeprefix("UNetRes") for kind in (*config["down_block_types"], *config["up_block_types"])}
    if unknown := sorted(kinds - BLOCKS):
        raise _refusal(f"a network with a {unknown[0]} cannot be grown")
    if width > 1 and config["class_embed_type"] == "identity":
        raise _refusal("a network that takes embeddings for classes cannot be grown in width: theirs is fixed")
    if width > 1 and config["time_embedding_type"] != "positional":
        raise _refusal(f"a network with a {config['time_embedding_type']} time embedding cannot be grown in width")
    layers, channels = depth * config["layers_per_block"], width * max(config["block_out_channels"])
    if layers > DEEPEST or channels > LARGEST:
        raise _refusal(f"a student of {layers:,} layers per block and {channels:,} channels could not be read again")
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
    """Fill `new`, the network of `grown_config`, so that it is the function that `old` is."""
    layers, sources = old.config["layers_per_block"], dict(old.named_modules())
    sinusoids = {"time_embedding.linear_1"}
    if old.config["class_embed_type"] == "timestep":  # class numbers are embedded as timesteps are
        sinusoids.add("class_embedding.linear_1")
    for name, module in _with_weights(new):
        if (origin := _origin(name, layers, depth)) is None:
            continue
        if name in sinusoids:
            _spread(sources[origin], module, width)
        else:
            _widen(sources[origin], module)
        if name.endswith(".to_q"):  # products of K-fold queries and keys are K-fold, divided by sqrt(K) more
            module.weight.mul_(width**-0.5)
            module.bias.mul_(width**-0.5)
    for name, module in new.named_modules():
        if type(module).__name__ in ("ResnetBlock2D", "Attention") and _origin(name, layers, depth) is None:
            _pass_through(module)


def _origin(name: str, layers: int, depth: int) -> str | None:
    """What a module of the grown network is called in the old one; None inside an added layer.

    A down block's added layers are its last, so the skips they leave equal the last one before. An up block reads
    skips in reverse and has one layer more: its added layers come after its first one, where those skips arrive.
    """
    parts = name.split(".")
    if parts[0] not in ("down_blocks", "up_blocks") or len(parts) < 4 or parts[2] not in ("resnets", "attentions"):
        return name
    index, added = int(parts[3]), layers * (depth - 1)
    first = layers if parts[0] == "down_blocks" else 1
    if first <= index < first + added:
        return None
    return name if index < first else ".".join([*parts[:3], str(index - added), *parts[4:]])


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


def _pass_through(layer: Any) -> None:
    """Make an added residual block or attention return its input; of [hidden, skip] channels the hidden ones."""
    last = layer.to_out[0] if hasattr(layer, "to_out") else layer.conv2
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    if getattr(layer, "conv_shortcut", None) is not None:
        nn.init.dirac_(layer.conv_shortcut.weight)
        nn.init.zeros_(layer.conv_shortcut.bias)
