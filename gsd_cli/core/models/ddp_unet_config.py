"""Which configs of the UNet of `denoising_diffusion_pytorch` can be teachers. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gsd_cli.base.errors import GsdError
from gsd_cli.core.models.config_check import DEEPEST, LARGEST, MAX_SIDE, require_channels

DIFFUSERS_CLASS = "DdpUNet"
CLASS_NAMES = (DIFFUSERS_CLASS,)
_HINT = "gsd writes these folders for models of denoising_diffusion_pytorch; the file is damaged"


def require_usable(folder: Path, config: dict[str, Any]) -> None:
    """Raise GsdError (exit 3) for a config that is not of this network."""
    require_channels(folder, config.get("in_channels"), config.get("out_channels"))
    widths, attentions = config.get("widths"), config.get("attentions")
    levels = len(widths) - 1 if isinstance(widths, list) else 0
    if not 1 <= levels <= DEEPEST or not _numbers(widths):
        raise GsdError(f"{folder} names widths of {widths!r}", hint=_HINT)
    whole = isinstance(attentions, list) and len(attentions) == levels + 1
    if not whole or not all(_is_attention(one) for one in attentions or ()):
        raise GsdError(f"{folder} names attentions of {attentions!r}", hint=_HINT)
    if not _numbers([config.get("time_width")]) or config["time_width"] % 2:
        raise GsdError(f"{folder} names a time_width of {config.get('time_width')!r}", hint=_HINT)
    side = config.get("sample_size")
    if not isinstance(side, int) or not 0 < side <= MAX_SIDE:
        raise GsdError(f"{folder} names a sample_size of {side!r}", hint=f"1 to {MAX_SIDE} is needed")
    if side % 2 ** (levels - 1):
        raise GsdError(
            f"{folder}: a side of {side} cannot be halved {levels - 1} times, as its network does",
            hint=f"give a multiple of {2 ** (levels - 1)}",
        )


def _numbers(values: Any) -> bool:
    return all(isinstance(n, int) and not isinstance(n, bool) and 0 < n <= LARGEST for n in values)


def _is_attention(one: Any) -> bool:
    """[full, heads, channels per head, stored keys]."""
    return (
        isinstance(one, list)
        and len(one) == 4
        and isinstance(one[0], bool)
        and _numbers(one[1:3])
        and (isinstance(one[3], int) and 0 <= one[3] <= LARGEST)
    )
