from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gsd_cli.base.errors import ExitCode, GsdError
from gsd_cli.catalogue.file_formats import ANIMATION_FORMATS
from gsd_cli.data.animation import ENCODERS, encode_animation, require_animation_format, write_animation

FRAMES = torch.linspace(-1, 1, 5).reshape(5, 1, 1, 1).expand(5, 1, 9, 9)


def test_a_strip_holds_the_frames_side_by_side() -> None:
    strip = np.asarray(Image.open(io.BytesIO(encode_animation(FRAMES, "png", 1))))
    assert strip.shape == (9, 45)
    assert strip[0, 0] == 0
    assert strip[0, 44] == 255


@pytest.mark.parametrize("suffix", ["gif", "webp"])
def test_animations_hold_every_frame_enlarged(suffix: str) -> None:
    with Image.open(io.BytesIO(encode_animation(FRAMES, suffix, 10))) as film:
        assert film.n_frames == 5  # type: ignore[attr-defined]
        assert film.size == (135, 135)
        film.seek(3)
        film.load()
        assert film.info["duration"] == 100


@pytest.mark.parametrize("channels", [1, 3])
def test_an_mp4_holds_every_frame_and_its_rate(channels: int) -> None:
    av = pytest.importorskip("av")
    payload = encode_animation(FRAMES.expand(5, channels, 9, 9), "mp4", 12.5)
    with av.open(io.BytesIO(payload)) as film:
        stream = film.streams.video[0]
        frames = [frame.to_ndarray(format="gray") for frame in film.decode(stream)]
        assert float(stream.average_rate) == 12.5
    assert len(frames) == 5
    assert frames[0].shape == (136, 136)
    assert frames[4][:100, :100].mean() > frames[2][:100, :100].mean() > frames[0][:100, :100].mean()


def test_mp4_without_the_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(GsdError, match="PyAV") as error:
        require_animation_format("mp4")
    assert error.value.code == ExitCode.INPUT
    assert error.value.hint is not None
    assert "gsd-cli[film]" in error.value.hint
    with pytest.raises(GsdError) as other:
        require_animation_format("avi")
    assert other.value.code == ExitCode.USAGE


def test_a_folder_holds_numbered_frames_and_the_latents(tmp_path: Path) -> None:
    z = torch.randn(5, 1, 9, 9)
    written = write_animation(FRAMES, tmp_path / "walk", "folder", 1, z)
    assert [path.name for path in written] == [*(f"frame-{i:05d}.png" for i in range(5)), "latents.npz"]
    with np.load(written[-1], allow_pickle=False) as stored:
        np.testing.assert_array_equal(stored["z"], z.numpy())


@pytest.mark.parametrize("format_", ["png", "jpg", "gif", "webp"])
def test_a_scale_makes_each_pixel_a_square(format_: str) -> None:
    corner = torch.tensor([[-1.0, 1.0], [1.0, -1.0]]).expand(3, 1, 2, 2)
    with Image.open(io.BytesIO(encode_animation(corner, format_, 1, scale=16))) as image:
        pixels = np.asarray(image.convert("L")).astype(int)
    assert pixels.shape == (32, 96 if format_ in ("png", "jpg") else 32)
    assert pixels[:14, :14].max() < 40 and pixels[:14, 18:32].min() > 215  # JPEG rings at edges


def test_a_folder_of_enlarged_jpegs(tmp_path: Path) -> None:
    z = torch.randn(5, 1, 9, 9)
    written = write_animation(FRAMES, tmp_path / "walk", "folder", 1, z, scale=3, kind="jpg")
    with Image.open(written[0]) as image:
        assert (image.format, image.size) == ("JPEG", (27, 27))
    with np.load(written[-1], allow_pickle=False) as stored:
        assert stored["z"].shape == z.shape


def test_every_format_that_an_option_offers_has_an_encoder() -> None:
    assert set(ENCODERS) == set(ANIMATION_FORMATS)


def test_frames_of_a_longer_animation_do_not_stay(tmp_path: Path) -> None:
    kept = [tmp_path / name for name in ("frame-1.png", "frame-00000.txt.bak.d", "notes.txt", "frame-final.png")]
    write_animation(torch.zeros(6, 1, 8, 8), tmp_path, "folder", 4, kind="jpg")
    for path in kept:
        path.write_text("mine")
    written = write_animation(torch.zeros(3, 1, 8, 8), tmp_path, "folder", 4)
    assert sorted(tmp_path.iterdir()) == sorted([*written, *kept])
