"""How one image is stored in a prepared data set: a PNG of one or three channels, else a .npy file."""

from __future__ import annotations

from pathlib import PurePosixPath

import numpy as np

from gsd_cli.catalogue.file_formats import IMAGE_SUFFIXES
from gsd_cli.data.arrays import SIGNATURE, decode_npy, encode_npy
from gsd_cli.data.decode import decode
from gsd_cli.data.png import encode_png
from gsd_cli.data.sources.admission import hidden

SUFFIXES = IMAGE_SUFFIXES | {".npy"}


def encode_member(image: np.ndarray) -> bytes:
    """The file of an image, uint8 [H, W, C]: EDM reads PNGs, EDM2 .npy files of [C, H, W] too."""
    return encode_png(image) if image.shape[2] in (1, 3) else encode_npy(image)


def decode_member(payload: bytes) -> np.ndarray:
    """The image in a file of a data set, uint8 [H, W, C]. Raises what `decode` raises."""
    if payload.startswith(SIGNATURE):
        return decode_npy(payload)
    array = np.asarray(decode(payload))
    return array.reshape(*array.shape[:2], -1)


def member_suffix(payload: bytes) -> str:
    """The suffix of a file that `encode_member` made."""
    return ".npy" if payload.startswith(SIGNATURE) else ".png"


def is_member(name: str) -> bool:
    """Whether a file of a data set is an image, by its path."""
    path = PurePosixPath(name)
    return path.suffix.lower() in SUFFIXES and not hidden(path.parts)
