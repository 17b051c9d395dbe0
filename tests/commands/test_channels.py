"""Images of other than 1 and 3 channels, from the files of a microscope to an edited image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gsd_cli.base.errors import GsdError
from gsd_cli.data.dataset import ImageArchive
from gsd_cli.data.pixels import to_pil
from gsd_cli.metrics.features import require_grey_or_rgb
from tests.support.shell import Shell
from tests.support.teachers import SMALL, flat, unet

SHORT = ("--steps", "1", "--batch-size", "4", "--eval-samples", "16", "--offline")


def files(folder: Path, channels: int, count: int = 12) -> None:
    """Smooth 12-bit images [channels, 20, 24], one .npy each."""
    folder.mkdir()
    random = np.random.default_rng(1)
    for i in range(count):
        coarse = random.integers(0, 4096, (channels, 4, 6), dtype=np.uint16)
        np.save(folder / f"{i}.npy", coarse.repeat(5, 1).repeat(4, 2))


def ran(shell: Shell, *arguments: str, code: int = 0) -> str:
    done = shell.gsd(*arguments)
    assert done.returncode == code, done.stderr.decode()
    return done.stderr.decode()


@pytest.mark.parametrize("channels", [2, 5])
def test_from_files_to_an_edit(shell: Shell, channels: int) -> None:
    folder = shell.folder
    files(folder / "cells", channels)
    flat(folder / "teacher", unet(SMALL, in_channels=channels, out_channels=channels))
    said = ran(shell, "prepare", "cells", "--size", "16", "-o", "d.zip", "--workers", "1")
    assert f"channels: {channels} in 12 of 12 images" in said
    assert "16-bit numbers from 0 (black) to 4095 (white)" in said
    assert f"no statistics: Inception reads grey or RGB images, these have {channels} channels" in said
    data = ImageArchive(folder / "d.zip")
    assert data.shape == (channels, 16, 16)
    assert (data.record["channels"], len(data.record["mean"])) == (channels, channels)

    ran(shell, "distill", "--teacher", "teacher", "--data", "d.zip", *SHORT, "-o", "run")
    assert "shown by the first" in ran(shell, "sample", "--model", "run", "-N", "2", "-o", "out")
    with Image.open(folder / "out" / "seed-00000001.png") as image:
        assert image.mode == ("L" if channels == 2 else "RGB")
    assert "shown" not in ran(shell, "sample", "--model", "run", "-N", "2", "-o", "x.npz")
    with np.load(folder / "x.npz") as made:
        assert made["images"].shape == (2, 16, 16, channels)

    invert = ("--model", "run", "--invert-steps", "2")
    assert "24 x 20" in ran(shell, "interpolate", "cells/0.npy", "cells/1.npy", *invert, "-o", "s.png")
    ran(shell, "edit", "cells/0.npy", "--direction", "pc0", "--strength", "1", *invert, "-o", "e.png")
    said = ran(shell, "edit", "out/seed-00000001.png", "--direction", "pc0", *invert, "-o", "f.png", code=3)
    assert f"the model's images have {channels}" in said
    said = ran(shell, "bench", "--model", "run", "--metrics", "fd", "-N", "16", "--features", "inception", code=3)
    assert "Inception reads grey or RGB images" in said


def test_images_are_shown_by_three_channels_or_one() -> None:
    image = torch.linspace(-1, 1, 5).reshape(5, 1, 1).expand(5, 2, 2)
    assert to_pil(image).getpixel((0, 0)) == (0, 64, 128)
    assert to_pil(image[:2]).getpixel((0, 0)) == 0


@pytest.mark.parametrize("channels", [2, 4, 16])
def test_networks_of_photographs_refuse_other_channels(channels: int) -> None:
    with pytest.raises(GsdError, match=f"Clip reads grey or RGB images, these have {channels} channels"):
        require_grey_or_rgb(channels, "Clip")


@pytest.mark.parametrize("arguments", [["--grey"], ["--no-grey"]])
def test_other_channels_have_no_grey_form(shell: Shell, arguments: list[str]) -> None:
    files(shell.folder / "cells", 4)
    assert "4 channels have no grey or RGB form" in ran(shell, "prepare", "cells", *arguments, "-o", "d.zip", code=2)


def test_images_of_other_channels_than_most_are_named(shell: Shell) -> None:
    files(shell.folder / "cells", 4)
    np.save(shell.folder / "cells" / "x.npy", np.zeros((9, 9, 7), np.uint16))
    said = ran(shell, "prepare", "cells", "--size", "16", "-o", "d.zip", code=3)
    assert "channels: 4 in 12 of 13 images; 1 have 7, which do not fit" in said
    assert "x.npy: 7 channels, not 4" in said
