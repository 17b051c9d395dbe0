"""The arrays of an .npz, whatever was done to it."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

LARGEST = 2**28
"""Bytes that a file of statistics may unpack to: Inception's take some 50 MB."""


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an .npz by name; nothing pickled is read.

    Raises ValueError when it is damaged, too large or something else, OSError when it cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if (size := sum(member.file_size for member in archive.infolist())) > LARGEST:
                raise ValueError(f"it unpacks to {size:,} bytes")
        with np.load(path, allow_pickle=False) as data:
            return {name: data[name] for name in data.files}
    except (OSError, ValueError):
        raise
    # numpy reads the header of an array as Python's own words: its tokenizer and parser have errors of their own
    except Exception as error:
        raise ValueError(str(error)) from error
