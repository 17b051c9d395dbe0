"""Options of gsd sample."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveInt, model_validator

from gsd_cli.options.common import Common
from gsd_cli.options.fields import CLASS, MODEL, Share, opt
from gsd_cli.options.seeds import SeedList


class SampleOptions(Common):
    """Generate images, one network call each."""

    model: str | None = MODEL
    num_samples: PositiveInt | None = opt(None, "Number of images: the seeds 0 to N-1; default: 64.", short="-N")
    seeds: SeedList | None = opt(
        None, "Seeds of the images, as in 0-63,100. An image depends only on its seed.", metavar="LIST"
    )
    output: str = opt(
        "samples",
        "Output: a folder, or a .png, .jpg, .webp, .npz, .zip or .tar file; - writes to stdout.",
        short="-o",
        metavar="PATH",
    )
    grid: bool = opt(False, "Write one tiled image instead of one file per image.")
    format: Literal["png", "jpg", "webp", "npz", "zip", "tar"] | None = opt(
        None, "File format for -o -, or for the images in a folder; default: png."
    )
    truncation: Share = opt(
        1.0, "Scale factor for latents, 0 to 1; lower values give more typical and less varied images."
    )
    class_: str | None = CLASS

    @model_validator(mode="after")
    def _one_count(self) -> SampleOptions:
        if self.num_samples is not None and self.seeds is not None:
            raise ValueError("give --num-samples or --seeds, not both")
        if self.num_samples is not None and self.num_samples > 10_000_000:
            raise ValueError("--num-samples is limited to 10,000,000")
        return self
