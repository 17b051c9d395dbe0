"""Drawing an image on the terminal with textual-image, for --show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

COLUMNS = 64
"""The most columns that an image takes."""
SMALLEST_SIDE = 256
"""Smaller images are enlarged to this many pixels, without smoothing, so that they can be seen."""


def draw_image(path: Path, terminal: Any) -> Any:
    """An image as rich prints it: in pixels where the terminal can show them, else in half blocks.

    terminal: its size, in columns (`width`).
    """
    from PIL import Image
    from textual_image.renderable import Image as Drawing  # asks the terminal what it can show

    image = Image.open(path).convert("RGB")
    scale = max(1, -(-SMALLEST_SIDE // max(image.size)))
    large = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    return Drawing(large, width=min(COLUMNS, terminal.width - 2))
