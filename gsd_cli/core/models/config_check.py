"""Check that a network's config and weights can belong together before memory is allocated for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gsd_cli.base.errors import GsdError
from gsd_cli.catalogue.diffusers_layout import DAMAGED_HINT, Weights

LARGEST = 2**20
"""The largest number allowed in a config: channels, embeddings, groups."""
DEEPEST = 64
"""The largest number of blocks, and of layers per block."""
MAX_SIDE = 2048
"""The largest side of an image, in pixels."""
MAX_CHANNELS = 64
"""The largest number of channels of an image or a latent."""
LEARNED = ("learned", "learned_range")
"""The kinds of variance that a network predicts in the second half of its output channels."""
_EMA_KEYS = ("decay", "min_decay", "optimization_step", "update_after_step", "use_ema_warmup", "inv_gamma", "power")
"""Keys that diffusers' EMAModel adds to the config of the network it averages."""


def require_channels(folder: Path, channels: Any, out: Any) -> None:
    """Raise GsdError (exit 3) unless a network maps images to themselves, or to twice as many channels.

    The second half is the variance of an ancestral step (learned sigma).
    """
    if not isinstance(channels, int) or not 0 < channels <= MAX_CHANNELS or out not in (channels, 2 * channels):
        raise GsdError(
            f"{folder}: {channels} channels in, {out} out",
            hint=f"a teacher maps images of 1 to {MAX_CHANNELS} channels, or latents, to themselves; a predicted "
            "variance (learned sigma) doubles its output",
        )


def with_defaults(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a config for the keys of `defaults`, which stand for those that it leaves out."""
    return {key: config.get(key, default) for key, default in defaults.items()}


def require_sizes(folder: Path, sizes: Mapping[str, Any], hint: str, *, may_be_zero: Sequence[str] = ()) -> None:
    """Raise GsdError (exit 3) unless all values are whole numbers from 1, or from 0 for those that may be zero: sides
    and patches (`..._size`) up to MAX_SIDE, the others up to LARGEST."""
    for key, value in sizes.items():
        smallest, largest = 0 if key in may_be_zero else 1, MAX_SIDE if key.endswith("_size") else LARGEST
        if not isinstance(value, int) or not smallest <= value <= largest:
            raise GsdError(f"{folder} names a {key} of {value!r}", hint=f"{smallest} to {largest:,} is needed; {hint}")


def require_patches(folder: Path, sizes: Mapping[str, Any], hint: str) -> None:
    """Raise GsdError (exit 3) unless a side (`sample_size`) is a whole number of patches (`patch_size`)."""
    side, patch = sizes["sample_size"], sizes["patch_size"]
    if side % patch:
        raise GsdError(f"{folder}: a side of {side} is not a whole number of patches of {patch}", hint=hint)


def require_plausible(
    folder: Path, build: Callable[[dict[str, Any]], Any], config: dict[str, Any], weights: Weights
) -> None:
    """Raise GsdError (exit 3) for a config whose network has more parameters than its weights have bytes.

    build(config): the network. It is built without storage, so that a config that asks for terabytes costs no memory.
    """
    config = without_averaging_keys(config)
    wrong = [f"{key} is {value}" for key, value in _numbers(config) if abs(value) > LARGEST]
    wrong += [f"{key} has {len(value)} entries" for key, value in config.items() if _long(value)]
    wrong += [f"{key} is {config[key]}" for key in config if "layers" in key and _deep(config[key])]
    if wrong:
        raise GsdError(f"{folder / 'config.json'}: {wrong[0]}, which no network here has", hint=DAMAGED_HINT)
    import torch  # not at the top: the limits are needed before torch is loaded

    with torch.device("meta"):
        net = build(config)
    needed, there = sum(p.numel() for p in net.parameters()), weights.size
    if needed > there:
        raise GsdError(
            f"{folder / 'config.json'} describes {needed:,} parameters, {weights.name} has {there:,} bytes",
            hint=DAMAGED_HINT,
        )


def without_averaging_keys(config: dict[str, Any]) -> dict[str, Any]:
    """The config of a network without what diffusers' EMAModel added to it."""
    return {key: value for key, value in config.items() if key not in _EMA_KEYS}


def _numbers(value: Any, key: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _numbers(inner, name)
    elif isinstance(value, list):
        for inner in value[: DEEPEST + 1]:
            yield from _numbers(inner, key)
    elif isinstance(value, int | float):
        yield key, value


def _long(value: Any) -> bool:
    return isinstance(value, list) and len(value) > DEEPEST


def _deep(value: Any) -> bool:
    return any(number > DEEPEST for _, number in _numbers(value))
