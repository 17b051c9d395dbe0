"""Options of gsd interpolate."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from gsd_cli.catalogue.file_formats import AnimationFormat
from gsd_cli.options.common import Common
from gsd_cli.options.fields import CLASS, EXACT, FORMAT, MODEL, Positive, argument, opt
from gsd_cli.options.invert import InvertSettings


class InterpolateOptions(Common, InvertSettings):
    """Walk between pictures through the generator's latent space."""

    precision: Literal["auto", "fp32"] = opt("auto", EXACT, panel="Common")
    images: Annotated[tuple[str, ...], Field(min_length=1)] = argument(
        ..., "Two or more pictures: files, - for stdin, saved latents, seed:42 or example:bag.", "IMAGE IMAGE..."
    )
    model: str | None = MODEL
    frames: Annotated[int, Field(ge=2, le=10_000)] = opt(16, "Pictures from each IMAGE to the next, ends included.")
    path: Literal["uniform", "slerp", "lerp", "geodesic"] = opt(
        "uniform", "uniform: slerp with equal perceptual steps; slerp; lerp; geodesic: least energy on the sphere."
    )
    geodesic_steps: PositiveInt = opt(30, "L-BFGS steps of --path geodesic.")
    loop: bool = opt(False, "Walk from the last picture back to the first.")
    pingpong: bool = opt(False, "Show the frames forth and back.")
    output: str = opt(
        "interpolation.png",
        "A strip .png, a .gif, .webp or .mp4, a folder of frames with latents.npz, or -.",
        short="-o",
        metavar="PATH",
    )
    format: AnimationFormat = FORMAT
    fps: Annotated[Positive, Field(le=1000)] = opt(12.0, "Frames a second of an animation.")
    class_: str | None = CLASS

    @model_validator(mode="after")
    def _two_pictures(self) -> InterpolateOptions:
        # one file of saved latents may hold several
        if len(self.images) < 2 and not self.images[0].endswith(".safetensors"):
            raise ValueError("give two or more of IMAGE")
        return self
