"""Options of gsd interpolate."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from gsd_cli.catalogue.exports import Backend, is_export
from gsd_cli.catalogue.file_formats import AnimationFormat
from gsd_cli.catalogue.image_names import LATENTS_SUFFIX, SEED
from gsd_cli.options.common import Common
from gsd_cli.options.fields import (
    BACKEND_HELP,
    CLASS,
    EXACT,
    FORMAT,
    MODEL_OR_FILE,
    SCALE_HELP,
    Positive,
    Scale,
    argument,
    opt,
)
from gsd_cli.options.invert import InvertSettings


class InterpolateOptions(Common, InvertSettings):
    """Interpolate between images in the generator's latent space."""

    precision: Literal["auto", "fp32"] = opt("auto", EXACT, panel="Common")
    images: Annotated[tuple[str, ...], Field(min_length=1)] = argument(
        ..., "Two or more images: files, - for stdin, saved latents, seed:42 or example:bag.", "IMAGE IMAGE..."
    )
    model: str | None = MODEL_OR_FILE
    frames: Annotated[int, Field(ge=2, le=10_000)] = opt(16, "Frames from each IMAGE to the next, both ends included.")
    path: Literal["uniform", "slerp", "lerp", "geodesic"] = opt(
        "uniform",
        "Path between two latents. uniform: slerp with equal perceptual steps. slerp: great circle. lerp: straight "
        "line. geodesic: least energy on the sphere.",
    )
    geodesic_steps: PositiveInt = opt(30, "L-BFGS steps for --path geodesic.")
    loop: bool = opt(False, "Continue from the last image back to the first.")
    pingpong: bool = opt(False, "Play the frames forwards, then backwards.")
    output: str = opt(
        "interpolation.png",
        "Output: a .png or .jpg strip, a .gif, .webp or .mp4, or a folder of frames with latents.npz; - writes to "
        "stdout.",
        short="-o",
        metavar="PATH",
    )
    format: AnimationFormat = FORMAT
    fps: Annotated[Positive, Field(le=1000)] = opt(12.0, "Frames per second of an animation.")
    scale: Scale | None = opt(None, f"{SCALE_HELP} Default: 1; animations get at least 128 pixels.", metavar="K")
    class_: str | None = CLASS
    backend: Backend | None = opt(None, BACKEND_HELP, metavar="torch|onnx")

    @model_validator(mode="after")
    def _two_images(self) -> InterpolateOptions:
        # one file of saved latents can hold several
        if len(self.images) < 2 and not self.images[0].endswith(".safetensors"):
            raise ValueError("give two or more of IMAGE")
        return self

    @model_validator(mode="after")
    def _fits_exported_file(self) -> InterpolateOptions:
        if not is_export(self.model):
            return self
        problems = []
        if self.backend == "torch":
            problems.append(f"--backend torch: {self.model} is run by onnxruntime")
        if self.path == "geodesic":
            problems.append("--path geodesic takes gradients, and an exported file has none")
        if files := [name for name in self.images if not name.startswith(SEED) and not name.endswith(LATENTS_SUFFIX)]:
            problems.append(f"finding the latent of {files[0]} takes gradients, and an exported file has none")
        if problems:
            raise ValueError("; ".join([*problems, "give the generator's folder with --model"]))
        return self
