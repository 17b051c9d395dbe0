"""How pictures become latents: shared by gsd interpolate and gsd edit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt

from gsd_cli.options.common import Common
from gsd_cli.options.fields import CLASS, EXACT, MODEL, NonNegativeFloat, argument, opt


def _latent_file(value: Path | None) -> Path | None:
    if value is not None and value.suffix != ".safetensors":
        raise ValueError(f"{value} must end in .safetensors")
    return value


class InvertSettings(BaseModel):
    """How a picture is turned into a latent."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    invert_steps: PositiveInt = opt(80, "L-BFGS steps of an inversion.", panel="Inversion")
    invert_starts: Annotated[int, Field(ge=1, le=64)] = opt(
        2, "Noised copies of the picture to begin at, beside the teacher's own noise for it.", panel="Inversion"
    )
    invert_prior: NonNegativeFloat = opt(
        1.0, "Pull of latents towards Gaussian noise: more is more walkable, less more faithful.", panel="Inversion"
    )
    tune: NonNegativeInt = opt(
        0, "Steps of pivotal tuning: weights fitted to each picture, beside the model.", panel="Inversion"
    )
    keep_residual: bool = opt(False, "Add what the model misses of a picture to what comes out.", panel="Inversion")
    save_latent: Annotated[Path | None, AfterValidator(_latent_file)] = opt(
        None, "Keep the latents; the file serves wherever an IMAGE does.", panel="Inversion", metavar="X.safetensors"
    )


class InvertOptions(Common, InvertSettings):
    """Find the latents of pictures; from Python only."""

    precision: Literal["auto", "fp32"] = opt("auto", EXACT, panel="Common")
    images: tuple[str, ...] = argument(..., "Pictures: files, or seed:42.", "IMAGE...")
    model: str | None = MODEL
    class_: str | None = CLASS
