"""Images in .npy files. Nothing pickled is read."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from gsd_cli.data.raster import MOST_CHANNELS, Raster

SIGNATURE = b"\x93NUMPY"


def read_npy(payload: Path | bytes, most_pixels: int) -> Raster:
    """One image: [H, W], [H, W, C] or [C, H, W]. Raises ValueError where it is something else."""
    array = _parse(payload.read_bytes() if isinstance(payload, Path) else payload)
    if array.dtype.kind not in "buif" or array.ndim not in (2, 3) or min(array.shape) < 1:
        raise ValueError(f"an array {array.shape} of {array.dtype} is no image")
    if array.size > most_pixels * MOST_CHANNELS:
        raise ValueError(f"an array {array.shape} is too large")
    return Raster(channels_last(to_native(array)))


def _parse(data: bytes) -> np.ndarray:
    """The array in the bytes of a .npy file; a header that claims more than there is allocates nothing."""
    file = io.BytesIO(data)
    try:
        version = npy.read_magic(file)
        shape, fortran, dtype = (npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0)(file)
        count = int(np.prod(shape, dtype=object))
        if dtype.hasobject or count < 0 or count * dtype.itemsize > len(data):
            raise ValueError("it is cut short, or holds objects")
        array = np.frombuffer(data, dtype, count, file.tell())
        return array.reshape(shape[::-1]).T if fortran else array.reshape(shape)
    # numpy reads a header with Python's parser, which raises errors of other types
    except Exception as error:
        raise ValueError(f"no array: {error}") from error


def to_native(array: np.ndarray) -> np.ndarray:
    """The array in the machine's byte order; booleans as 0 and 255."""
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * 255
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def channels_last(array: np.ndarray) -> np.ndarray:
    """[H, W, C] of [H, W], [H, W, C] or [C, H, W]; [C, H, W] where either would do, as data sets store it."""
    if array.ndim == 2:
        return array[..., None]
    first, middle, last = array.shape
    if middle == last and first <= MOST_CHANNELS:  # square images
        return array.transpose(1, 2, 0)
    if first == middle and last <= MOST_CHANNELS:
        return array
    return array.transpose(1, 2, 0) if first < last else array


def encode_npy(image: np.ndarray) -> bytes:
    """The .npy file of an image [H, W, C] as [C, H, W], which EDM2 reads from data sets."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(image.transpose(2, 0, 1)), allow_pickle=False)
    return buffer.getvalue()


def decode_npy(payload: bytes) -> np.ndarray:
    """The image [H, W, C], uint8, of what `encode_npy` wrote. Raises ValueError for another array."""
    array = _parse(payload)
    if array.ndim != 3 or array.dtype != np.uint8:
        raise ValueError(f"an array {array.shape} of {array.dtype} is no prepared image")
    return np.asarray(array.transpose(1, 2, 0))
