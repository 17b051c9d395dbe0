"""Reads one IMAGE argument at a model's size and channels, and reports what was changed to fit."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gsd_cli.base.errors import GsdError, UsageError
from gsd_cli.base.session import Session
from gsd_cli.base.text import plural
from gsd_cli.catalogue.image_names import EXAMPLE, IMAGE_HINT, STDIN, STDIN_EMPTY, example_file
from gsd_cli.core.models.generator import Generator
from gsd_cli.data.decode import Decoded, Stored, crop_and_resize, open_stored, to_decoded
from gsd_cli.data.pixels import from_uint8
from gsd_cli.data.remarks import Remarks, add_remarks, describe_remarks
from gsd_cli.data.survey import Survey, survey


def read_image(name: str, generator: Generator, session: Session | None = None) -> Tensor:
    """One image at the model's size and channels, [C, H, W] in [-1, 1]. A change of size or mode is reported.

    Raises GsdError (exit 3) naming a file that is not an image.
    """
    channels, size, _ = generator.image_shape
    try:
        file = example_file(name) if name.startswith(EXAMPLE) else Path(name)
        payload = _read_stdin() if name == STDIN else file
        looked = survey([payload], [name], remedy="")
        stored = open_stored(payload)
        image = to_decoded(stored, looked.ranges)
        _require_channels(name, image, channels)
        pixels = crop_and_resize(image, size, channels)
    except FileNotFoundError as error:
        raise GsdError(f"no such file: {name}", hint=IMAGE_HINT) from error
    except GsdError:
        raise
    except Exception as error:  # damaged images raise nearly anything
        cause = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise GsdError(f"{name} is not an image: {cause}", hint="use PNG, JPEG, WebP or a similar format") from error
    height, width, found = _shape_of(image)
    if session is not None:
        for line in looked.messages:
            session.say(f"{name}: {line}")
        _warn_of_values(name, stored, looked, session)
        if (height, width, found) != (size, size, channels):
            session.say(f"{name}: {width} x {height} {_mode(found)} -> {size} x {size} {_mode(channels)}")
    return from_uint8(torch.from_numpy(pixels.copy())).permute(2, 0, 1)


def _warn_of_values(name: str, stored: Stored, looked: Survey, session: Session) -> None:
    """Say what the range of values does to the image."""
    remarks: Remarks = {}
    if stored.raster is not None:
        add_remarks(remarks, stored.raster, 0, looked.ranges)
    for line in (*looked.warnings, *describe_remarks(remarks, looked.ranges, 1, lambda _: name, remedy=False)):
        session.warn(line)


def _shape_of(image: Decoded) -> tuple[int, int, int]:
    if isinstance(image, np.ndarray):
        return image.shape[0], image.shape[1], image.shape[2]
    return image.height, image.width, len(image.getbands())


def _require_channels(name: str, image: Decoded, channels: int) -> None:
    """Raise GsdError (exit 3) unless the image can have as many channels as the model's: grey and RGB are converted."""
    found = _shape_of(image)[2]
    if found != channels and not (found in (1, 3) and channels in (1, 3)):
        raise GsdError(
            f"{name} has {plural(found, 'channel')}, the model's images have {channels}",
            hint=f"give a .npy or a TIFF with {plural(channels, 'channel')}",
        )


def _mode(channels: int) -> str:
    return {1: "grey", 3: "RGB"}.get(channels, f"of {channels} channels")


def _read_stdin() -> bytes:
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError(["- reads an image from a pipe, but stdin is a terminal"], hint="cat a.png | gsd ...")
    payload = sys.stdin.buffer.read()
    if not payload:
        raise GsdError(STDIN_EMPTY, hint="cat a.png | gsd ...")
    return payload
