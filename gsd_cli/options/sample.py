"""Options of gsd sample."""

from __future__ import annotations

from pydantic import PositiveInt, model_validator

from gsd_cli.catalogue.file_formats import ARCHIVE_FORMATS, IMAGE_FORMATS, SampleFormat
from gsd_cli.options.common import Common
from gsd_cli.options.fields import CLASS, MODEL, Share, opt
from gsd_cli.options.seeds import SeedList


class SampleOptions(Common):
    """Make pictures: one network call each."""

    model: str | None = MODEL
    num_samples: PositiveInt | None = opt(None, "How many: short for --seeds 0-(N-1); default 64.", short="-N")
    seeds: SeedList | None = opt(None, "Which: 0-63,100. An image depends on its seed alone.", metavar="LIST")
    output: str = opt(
        "samples",
        f"A folder, or {', '.join(f'x.{name}' for name in (*IMAGE_FORMATS, *ARCHIVE_FORMATS))}; - for bytes on stdout.",
        short="-o",
        metavar="PATH",
    )
    grid: bool = opt(False, "One tiled picture instead of one file an image.")
    format: SampleFormat | None = opt(None, "Format of what -o - writes, or of the images in a folder; default png.")
    truncation: Share = opt(1.0, "Scale latents towards 0: less variety, more typical.")
    class_: str | None = CLASS

    @model_validator(mode="after")
    def _one_count(self) -> SampleOptions:
        if self.num_samples is not None and self.seeds is not None:
            raise ValueError("give --num-samples or --seeds, not both")
        if self.num_samples is not None and self.num_samples > 10_000_000:
            raise ValueError("--num-samples is limited to 10,000,000")
        return self
