"""The configs of EDM's networks, as config.json and as the arguments in NVIDIA's files say them. No torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from gsd_cli.base.errors import GsdError
from gsd_cli.core.models.config_check import DEEPEST, LARGEST, MAX_SIDE

SONG, DHARIWAL = "SongUNet", "DhariwalUNet"
CLASS_NAMES = (SONG, DHARIWAL)
HEUN, SOLVER_KEY = "EDMHeun", "_gsd_solver"
"""Karras et al.'s algorithm 1 without churn, and the key in a scheduler's config that says that the teacher's own
pipeline steps by it. diffusers ignores keys that begin with an underscore."""
HEAD_CHANNELS = 64
"""Channels per head of the attentions of a DhariwalUNet."""
LICENCE = "CC BY-NC-SA 4.0"
"""Of the networks that NVIDIA publishes."""
MAX_CHANNELS = 64
_HINT = "gsd reads the networks of Karras et al. (2022): DDPM++, NCSN++ and ADM"


@dataclass(frozen=True)
class EdmConfig:
    """One network. The names are those of the published files' arguments, except those of diffusers for the first four.

    num_class_embeds: the number of classes, 0 without any. augment_dim: of the labels of augmented training images.
    channel_mult, channel_mult_emb, channel_mult_noise: multiples of model_channels per resolution from fine to coarse,
    in the embedding, and in the encoding of the noise level. resample_filter: the taps of the filter that halves and
    doubles the resolution. embedding_type: how the noise level is encoded. encoder_type: `residual` adds the
    downsampled input of each resolution (NCSN++).
    """

    sample_size: int
    in_channels: int
    out_channels: int
    num_class_embeds: int = 0
    augment_dim: int = 0
    model_channels: int = 128
    channel_mult: tuple[int, ...] = (1, 2, 2, 2)
    channel_mult_emb: int = 4
    num_blocks: int = 4
    attn_resolutions: tuple[int, ...] = (16,)
    dropout: float = 0.1
    embedding_type: str = "positional"
    channel_mult_noise: int = 1
    encoder_type: str = "standard"
    decoder_type: str = "standard"
    resample_filter: tuple[float, ...] = (1.0, 1.0)

    def to_json(self, name: str) -> dict[str, Any]:
        """The content of config.json; name: SONG or DHARIWAL."""
        return {"_class_name": name, **{k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}}

    @classmethod
    def from_json(cls, config: Mapping[str, Any], where: Path = Path("config.json")) -> EdmConfig:
        """The config that `to_json` wrote; where: its file, for messages. Raises GsdError, see `require_usable`."""
        require_usable(where, config)
        known = {one.name for one in fields(cls)}
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in config.items() if k in known}
        return cls(**values)


DEFAULTS: dict[str, dict[str, Any]] = {
    SONG: {},
    DHARIWAL: {"model_channels": 192, "channel_mult": (1, 2, 3, 4), "num_blocks": 3, "attn_resolutions": (32, 16, 8)},
}
"""What the published files' arguments leave out, where it differs from the fields' defaults."""
_ARGUMENTS = {"img_resolution": "sample_size", "label_dim": "num_class_embeds"}
_IGNORED = ("label_dropout",)
"""Arguments that change the training alone."""


def from_arguments(
    name: str, arguments: Mapping[str, Any], where: Path = Path("config.json")
) -> EdmConfig:  # fmt: skip
    """The config of a network of class `name` from its constructor's arguments in a file. Raises GsdError (exit 3)."""
    named = {_ARGUMENTS.get(key, key): value for key, value in arguments.items() if key not in _IGNORED}
    known = {one.name for one in fields(EdmConfig)}
    if strange := sorted(named.keys() - known):
        raise GsdError(f"{where}: its {name} has an unknown argument {strange[0]}", hint=_HINT)
    config = {"_class_name": name, **DEFAULTS[name], **named}
    return EdmConfig.from_json(
        {key: list(value) if isinstance(value, tuple) else value for key, value in config.items()}, where
    )


# -- checks ---------------------------------------------------------------------------------------


def _whole(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _wholes(value: Any, low: int, high: int, longest: int) -> bool:
    return isinstance(value, list) and len(value) <= longest and all(_whole(one, low, high) for one in value)


def _number(value: Any, low: float, high: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


_VALID: dict[str, Callable[[Any], bool]] = {
    "sample_size": lambda value: _whole(value, 1, MAX_SIDE),
    "in_channels": lambda value: _whole(value, 1, MAX_CHANNELS),
    "out_channels": lambda value: _whole(value, 1, MAX_CHANNELS),
    "num_class_embeds": lambda value: _whole(value, 0, LARGEST),
    "augment_dim": lambda value: _whole(value, 0, 1024),
    "model_channels": lambda value: _whole(value, 4, 4096) and value % 4 == 0,
    "channel_mult": lambda value: _wholes(value, 1, 64, 16) and len(value) > 0,
    "channel_mult_emb": lambda value: _whole(value, 1, 64),
    "num_blocks": lambda value: _whole(value, 1, DEEPEST),
    "attn_resolutions": lambda value: _wholes(value, 1, MAX_SIDE, 16),
    "dropout": lambda value: _number(value, 0, 1),
    "embedding_type": lambda value: value in ("positional", "fourier"),
    "channel_mult_noise": lambda value: _whole(value, 1, 64),
    "encoder_type": lambda value: value in ("standard", "residual"),
    "decoder_type": lambda value: value == "standard",
    "resample_filter": lambda value: isinstance(value, list)
    and len(value) in (2, 4, 6, 8)
    and all(_number(tap, -1e3, 1e3) for tap in value)
    and abs(sum(value)) > 1e-3,
}  # fmt: skip
_NEEDED = ("sample_size", "in_channels", "out_channels")


def require_usable(folder: Path, config: Mapping[str, Any]) -> None:
    """Raise GsdError (exit 3) for a config that is not of an image denoiser of Karras et al. (2022)."""
    for key, valid in _VALID.items():
        if key in config or key in _NEEDED:
            value = config.get(key)
            if not valid(value):
                raise GsdError(f"{folder}: {key} is {str(value)[:60]!r}, which no network here has", hint=_HINT)
    if config["in_channels"] != config["out_channels"]:
        raise GsdError(
            f"{folder}: {config['in_channels']} channels in, {config['out_channels']} out",
            hint="a teacher maps images, or latents, to themselves",
        )
    if config.get("_class_name") == DHARIWAL and config.get("model_channels", 192) % HEAD_CHANNELS:
        raise GsdError(f"{folder}: a {DHARIWAL} has a multiple of {HEAD_CHANNELS} channels", hint=_HINT)
    halvings = len(config.get("channel_mult", (1, 2, 2, 2))) - 1
    if config["sample_size"] % 2**halvings:
        raise GsdError(f"{folder}: a side of {config['sample_size']} cannot be halved {halvings} times", hint=_HINT)
