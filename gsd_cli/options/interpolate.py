"""Options of gsd interpolate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from gsd_cli.base.errors import UsageError
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
    PROMPTS_HELP,
    SCALE_HELP,
    Positive,
    Scale,
    Texts,
    argument,
    opt,
    repeated,
)
from gsd_cli.options.invert import InvertSettings


class InterpolateOptions(Common, InvertSettings):
    """Interpolate between images in the generator's latent space, or between prompts."""

    precision: Literal["auto", "fp32"] = opt("auto", EXACT, panel="Common")
    images: Annotated[tuple[str, ...], Field(min_length=1)] = argument(
        ...,
        "Two or more images: files, - for stdin, saved latents, seed:42 or example:bag. One, with several --prompt.",
        "IMAGE IMAGE...",
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
    prompt: Texts = repeated(
        "Text, for text-conditional models. Once: that of all images. Once per IMAGE: texts and latents both walk. "
        "Several with one IMAGE: its latent stays, and the text walks.",
        metavar="TEXT",
    )
    prompts: Path | None = opt(None, PROMPTS_HELP, metavar="FILE")
    backend: Backend | None = opt(None, BACKEND_HELP, metavar="torch|onnx")

    @model_validator(mode="after")
    def _two_ends(self) -> InterpolateOptions:
        # one file can hold several latents, or several prompts
        if len(self.images) < 2 and not self.images[0].endswith(".safetensors"):
            if len(self.prompt) == 1 or not (self.prompt or self.prompts):
                raise ValueError("give two or more of IMAGE, or of --prompt")
            if self.path == "geodesic":
                raise ValueError("--path geodesic moves latents, and one IMAGE has one: give two, or another --path")
        if self.class_ is not None and (self.prompt or self.prompts):
            raise ValueError("give --class or --prompt, not both")
        return self

    @model_validator(mode="after")
    def _fits_exported_file(self) -> InterpolateOptions:
        if not is_export(self.model):
            return self
        problems = []
        if self.backend == "torch":
            problems.append(f"--backend torch: {self.model} is run by onnxruntime")
        if self.prompt and self.prompts is None:
            problems.append("--prompt needs a text encoder, which an exported file has not: add --prompts FILE")
        if self.path == "geodesic":
            problems.append("--path geodesic takes gradients, and an exported file has none")
        if files := [name for name in self.images if not name.startswith(SEED) and not name.endswith(LATENTS_SUFFIX)]:
            problems.append(f"finding the latent of {files[0]} takes gradients, and an exported file has none")
        if problems:
            raise ValueError("; ".join([*problems, "give the generator's folder with --model"]))
        return self


def require_pairs(images: int, texts: int) -> None:
    """Raise UsageError unless a walk can go between this number of images with this number of texts, 0 for none.

    One text is that of all images; several are one for each image, or the ends of a walk from one image.
    """
    if images < 2 and texts < 2:
        raise UsageError(["a walk needs two images, or two prompts"], hint="give another IMAGE, or seed:42")
    if texts not in (0, 1, images) and images != 1:
        raise UsageError(
            [f"{texts} prompts for {images} images"],
            hint="give one --prompt for all images, one for each, or several with one IMAGE",
        )
