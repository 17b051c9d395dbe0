"""Options for inverting images into latents, shared by gsd interpolate and gsd edit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt

from gsd_cli.options.common import Common
from gsd_cli.options.fields import CLASS, EXACT, MODEL, PROMPTS_HELP, NonNegativeFloat, argument, opt


def safetensors_file(value: Path | None) -> Path | None:
    """The path of a file that is written as safetensors. Raises ValueError for another suffix."""
    if value is not None and value.suffix != ".safetensors":
        raise ValueError(f"{value} must end in .safetensors")
    return value


class InvertSettings(BaseModel):
    """Settings for turning an image into a latent."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    invert_steps: PositiveInt = opt(80, "L-BFGS steps per inversion.", panel="Inversion")
    invert_starts: Annotated[int, Field(ge=1, le=64)] = opt(
        2, "Noised copies of the image to start from, in addition to the teacher's inversion.", panel="Inversion"
    )
    invert_prior: NonNegativeFloat = opt(
        1.0, "Weight of the Gaussian prior. Higher: smoother walks; lower: closer reconstruction.", panel="Inversion"
    )
    tune: NonNegativeInt = opt(
        0,
        "Steps of pivotal tuning, which fits a change of weights to each image; the model stays as it is.",
        panel="Inversion",
    )
    keep_residual: bool = opt(
        False, "Add the reconstruction error of the input images to the output.", panel="Inversion"
    )
    save_latent: Annotated[Path | None, AfterValidator(safetensors_file)] = opt(
        None,
        "Save the latents to this file; it can be used wherever IMAGE is accepted.",
        panel="Inversion",
        metavar="X.safetensors",
    )


class InvertOptions(Common, InvertSettings):
    """Find the latents of images; available from Python only."""

    precision: Literal["auto", "fp32"] = opt("auto", EXACT, panel="Common")
    images: tuple[str, ...] = argument(..., "Images: files or seed:42.", "IMAGE...")
    model: str | None = MODEL
    class_: str | None = CLASS
    prompt: str | None = opt(None, "What the images show, for a text-conditional model.", metavar="TEXT")
    prompts: Path | None = opt(None, PROMPTS_HELP, metavar="FILE")
