"""What interpolate and edit share: pictures in (files, stdin, seeds), inverted to latents."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gsd_cli.console import Console
from gsd_cli.errors import GsdError, UsageError
from gsd_cli.interrupts import StopRequest
from gsd_cli.options import Common

if TYPE_CHECKING:
    from torch import Tensor

    from gsd_cli.core.generator import Generator, Model

GAUSSIAN_NORM = 0.05
GAUSSIAN_CORRELATION = 0.1
GOOD_PSNR = 20.0


@dataclass(frozen=True)
class Located:
    """Latents [N, C, H, W] of the given pictures, and what is known of each."""

    z: Tensor
    figures: list[dict[str, Any]]


def locate(
    names: Sequence[str], model: Model, options: Common, steps: int, lr: float, console: Console, stop: StopRequest
) -> Located:
    """Seeds become their latents; files and `-` are inverted, and how well is said.

    Raises GsdError (exit 3) for what is no picture, UsageError for a bad seed.
    """
    import torch

    from gsd_cli.core.inversion import encoder_features, invert
    from gsd_cli.core.noise import latents

    generator = model.generator
    seeds = {i: _seed(name) for i, name in enumerate(names) if name.startswith("seed:")}
    files = [i for i in range(len(names)) if i not in seeds]
    if sum(names[i] == "-" for i in files) > 1:
        raise UsageError(["- can be given once: there is one stdin"])
    z: list[Any] = [None] * len(names)
    figures: list[dict[str, Any]] = [{"image": name} for name in names]
    for i, seed in seeds.items():
        z[i] = latents([seed], generator.latent_shape)[0]
    if files:
        images = torch.stack([_read(names[i], generator, console) for i in files])
        with console.progress("inverting", steps) as bar:

            def on_step(done: int, _total: int) -> None:
                stop.check()
                bar.update(done)

            features = encoder_features(generator)
            found = invert(generator, images, features, steps, lr, options.seed, on_step)
        for k, i in enumerate(files):
            z[i] = found.z[k]
            figures[i] |= {
                "psnr": found.psnr[k],
                "feature_distance": found.feature_distance[k],
                "norm": found.norm[k],
                "correlation": found.correlation[k],
            }
            _tell(figures[i], console)
    return Located(torch.stack(z), figures)


def _tell(figures: dict[str, Any], console: Console) -> None:
    console.say(
        f"{figures['image']}: PSNR {figures['psnr']:.1f} dB, feature distance {figures['feature_distance']:.4f}, "
        f"|z|/sqrt(d) {figures['norm']:.3f}, lag-1 correlation {figures['correlation']:+.3f}"
    )
    if abs(figures["norm"] - 1) > GAUSSIAN_NORM or abs(figures["correlation"]) > GAUSSIAN_CORRELATION:
        console.warn(f"{figures['image']}: its latent is not Gaussian; walks from it may leave the images")
    if figures["psnr"] < GOOD_PSNR:
        console.warn(f"{figures['image']}: the model cannot make this picture well; is it of the model's domain?")


def _seed(name: str) -> int:
    text = name.removeprefix("seed:")
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise UsageError([f"{name!r}: write seed:42, a whole number"])
    return int(text)


def _read(name: str, generator: Generator, console: Console) -> Tensor:
    """One picture as the model's size and channels, [C, H, W] in [-1, 1]."""
    import torch

    from gsd_cli.data.decode import decode, fit_picture
    from gsd_cli.data.pictures import from_uint8

    channels, size, _ = generator.image_shape
    try:
        picture = decode(_stdin() if name == "-" else Path(name))
    except FileNotFoundError as error:
        raise GsdError(f"no such file: {name}", hint="a picture, - for stdin, or seed:42") from error
    except GsdError:
        raise
    except Exception as error:  # damaged pictures raise nearly anything
        cause = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise GsdError(f"{name} is not a picture: {cause}", hint="PNG, JPEG, WebP and the like") from error
    if picture.size != (size, size) or len(picture.getbands()) != channels:
        mode = "grey" if channels == 1 else "RGB"
        console.say(f"{name}: {picture.width} x {picture.height} {picture.mode} -> {size} x {size} {mode}")
    return from_uint8(torch.from_numpy(fit_picture(picture, size, channels).copy())).permute(2, 0, 1)


def _stdin() -> bytes:
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError(["- reads a picture from a pipe, and stdin is a terminal"], hint="cat a.png | gsd ...")
    return sys.stdin.buffer.read()
