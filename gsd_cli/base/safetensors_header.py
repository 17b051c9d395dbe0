"""The header of a safetensors file, read without NumPy: `safe_open` loads it, which takes a tenth of a second."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

LONGEST_HEADER = 10_000_000
"""Bytes of a header that is read."""


def read_header(path: Path) -> dict[str, Any]:
    """The header of a file: `dtype` and `shape` of each tensor, and the strings of `__metadata__`.

    Raises FileNotFoundError for no file; OSError or ValueError for one that cannot be read or is not safetensors.
    """
    with path.open("rb") as file:
        try:
            (size,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(size)) if size <= LONGEST_HEADER else None
        except (ValueError, struct.error, RecursionError) as error:
            raise ValueError("it is no safetensors file") from error
    if not isinstance(header, dict):
        raise ValueError("it is no safetensors file")
    return header
