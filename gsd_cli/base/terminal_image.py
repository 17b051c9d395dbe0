"""--show: a picture on the terminal, drawn by textual-image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

PICTURES = (".png", ".gif", ".jpg", ".webp")
COLUMNS = 64
SMALLEST = 256
"""Pictures of fewer pixels a side are enlarged to this, pixel by pixel, so that they can be seen."""


def picture_of(outputs: list[str]) -> Path | None:
    """The picture to show of what a command wrote: the first one, or the last grid of a run."""
    for output in map(Path, outputs):
        if output.suffix.lower() in PICTURES and output.is_file():
            return output
        grids = sorted((output.parent / "samples").glob("*.png")) if output.name == "generator" else []
        if grids:
            return grids[-1]
    return None


def drawn(path: Path, size: Any) -> Any:
    """Something rich prints. The terminal is asked once what it can show."""
    from PIL import Image
    from textual_image.renderable import Image as Drawn

    picture = Image.open(path).convert("RGB")
    times = max(1, -(-SMALLEST // max(picture.size)))
    large = picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)
    return Drawn(large, width=min(COLUMNS, size.width - 2))
