"""One range of values for a set: what decides it, what it does to images, and that both are said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gsd_cli.base.errors import Stopped
from gsd_cli.base.signals import StopRequest
from gsd_cli.data.build import Preparation, Prepared, UnreadableImages, prepare
from gsd_cli.data.dataset import ImageArchive
from gsd_cli.data.decode import crop_and_resize, decode
from gsd_cli.data.raster import Ranges
from gsd_cli.data.sources.source import Source
from gsd_cli.data.survey import survey

RAMP = np.linspace(0, 1, 1024, dtype=np.float32).reshape(32, 32)


def with_pixels(image: np.ndarray, *values: float) -> np.ndarray:
    changed = image.copy()
    changed.flat[: len(values)] = values
    return changed


def whole(low: int, high: int, dtype: type = np.uint16) -> np.ndarray:
    return (low + RAMP * (high - low)).round().astype(dtype)


RANGES: dict[str, tuple[list[np.ndarray], tuple[float, float]]] = {
    "a hot pixel": ([RAMP, RAMP, with_pixels(RAMP, 1e4)], (0, 1)),
    "hot and cold pixels": ([RAMP - 0.5, with_pixels(RAMP - 0.5, 1e4, -1e4)], (-1, 1)),
    "a hot pixel in every image": ([with_pixels(RAMP, 1e4)] * 3, (0, 1)),
    "a hot pixel in whole numbers": ([whole(0, 4000), with_pixels(whole(0, 4000), 65535)], (0, 4095)),
    "a bright pixel that costs little": ([RAMP * 100, with_pixels(RAMP * 100, 150.0)], (0, 150)),
    "few pixels that are all there is": ([with_pixels(0 * RAMP, 9.0)], (0, 9)),
    "depths": ([300 + 900 * RAMP, 300 + 1200 * RAMP], (300, 1500)),
    "whole floats of 12 bits": ([whole(0, 4095, np.float32)], (0, 4095)),
    "whole floats that fill little of their bits": ([whole(300, 1500, np.float32)], (300, 1500)),
    "one value in parts": ([whole(0, 4095, np.float32), RAMP * 4000], (0, 4095)),
    "two scales": ([RAMP, RAMP * 255], (0, 255)),
    "four bright images of 400": ([whole(0, 4000)] * 396 + [whole(0, 60000)] * 4, (0, 4095)),
    "forty bright images of 400": ([whole(0, 4000)] * 360 + [whole(0, 60000)] * 40, (0, 65535)),
}


@pytest.mark.parametrize("name", RANGES)
def test_the_range_of_a_set(name: str) -> None:
    images, expected = RANGES[name]
    (found,) = survey(images).ranges.values()
    assert found == pytest.approx(expected)


@given(
    st.floats(-1e5, 1e5, width=32), st.floats(2**-6, 1e5, width=32),
    st.lists(st.floats(-1e9, 1e9, width=32), max_size=4),
)  # fmt: skip
def test_four_pixels_never_leave_an_image_less_than_a_third_of_the_greys(low: float, width: float, odd: list) -> None:
    image = np.float32(low) + RAMP * np.float32(width)
    if image.max() - image.min() < width / 2:
        return  # floats of 32 bits do not resolve it
    bottom, top = next(iter(survey([with_pixels(image, *odd)], value_range=None).ranges.values()))
    usual = (bottom, top) in ((0, 1), (-1, 1))
    assert usual or (image.max() - image.min()) / (top - bottom) > 0.32


def test_images_that_the_range_makes_dark_are_counted_and_the_brightest_is_named() -> None:
    looked = survey([RAMP, RAMP * 255, RAMP / 2, RAMP * 200], ["a", "b", "c", "d"])
    assert looked.warnings == (
        "2 of 4 images use less than an eighth of the greys (2 nearly one); the highest value, 255, is in b; "
        "--value-range=LOW:HIGH sets another range",
    )
    given = survey([300 + 900 * RAMP, RAMP], ["a", "b"], value_range=(0, 1))
    assert given.warnings[0].startswith("1 of 2 images uses less than an eighth of the greys (1 nearly one)")
    assert survey([RAMP, 0 * RAMP], ["a", "black"]).warnings == ()
    assert survey([RAMP / 20], ["a"], remedy="").warnings == ("a uses less than an eighth of the greys",)


def test_pixels_that_do_not_decide_are_said() -> None:
    looked = survey([RAMP, with_pixels(RAMP, 1e4)])
    assert "as 2 images show without a few pixels or images (10000)" in looked.messages[0]


def test_every_image_looked_at_is_looked_into() -> None:
    images = [whole(0, 4000)] * 600
    for place in range(0, 600, 7):
        images[place] = whole(0, 60000)
    looked = survey(images)
    assert looked.ranges == {"uint16": (0, 65535)}
    assert "as 600 images show" in looked.messages[0]


# -- while images are decoded --------------------------------------------------------------------

MIXED = [RAMP] * 300
MIXED[5] = with_pixels(RAMP, np.nan, np.inf)
MIXED[70] = MIXED[290] = RAMP * 3
MIXED[200] = whole(0, 4000)
SAID = (
    "1 of 300 images has values that are not finite (5): NaN became black, infinity black or white",
    "2 of 300 images have floats outside 0 to 1 (70 is the first), which became black or white; --value-range=0:3 "
    "keeps them",
    "1 of 300 images has 16-bit numbers, unlike the images looked at (200): scaled from 0 (black) to 65535 (white); "
    "--value-range changes it",
)


def prepared(
    images: list[np.ndarray], target: Path, *, workers: int = 1, stop_at: int | None = None, skip_bad: bool = False,
    ranges: Ranges | None = None,
) -> Prepared:  # fmt: skip
    names = [str(i) for i in range(len(images))]
    source = Source("arrays", names, lambda places: (images[place] for place in places), "arrays-1")
    stop = StopRequest()

    def on_done(done: int) -> None:
        if stop_at is not None and done >= stop_at:
            stop.code = 130  # type: ignore[assignment]

    recipe = Preparation(8, 1, ranges or {"float": (0, 1)})
    return prepare(source, target, recipe, None, skip_bad, workers, stop, on_done)


@pytest.mark.parametrize("how", ["one worker", "two workers", "resumed"])
def test_values_that_do_not_fit_the_range_are_counted_wherever_images_are_decoded(tmp_path: Path, how: str) -> None:
    if how == "resumed":
        with pytest.raises(Stopped):
            prepared(MIXED, tmp_path / "x.zip", stop_at=129)
    assert prepared(MIXED, tmp_path / "x.zip", workers=2 if how == "two workers" else 1).remarks == SAID


def test_what_fits_the_range_is_not_said(tmp_path: Path) -> None:
    images = [RAMP, 1.04 * RAMP - 0.02, 0 * RAMP, np.zeros((32, 32), np.uint8)]
    assert prepared(images, tmp_path / "x.zip").remarks == ()
    assert prepared([whole(0, 4096)], tmp_path / "y.zip", ranges={"uint16": (0, 4095)}).remarks == (
        "0 has 16-bit numbers outside 0 to 4095, which became black or white; --value-range=0:4096 keeps them",
    )


def test_an_image_without_a_finite_value_is_unreadable(tmp_path: Path) -> None:
    images = [RAMP, RAMP * np.float32(np.nan), RAMP]
    assert survey(images).ranges == {"float": (0, 1)}
    assert survey(images[1:2]).ranges == {}
    with pytest.raises(UnreadableImages) as caught:
        prepared(images, tmp_path / "x.zip")
    assert caught.value.problems == ["1: none of its values is finite"]
    assert prepared(images, tmp_path / "x.zip", skip_bad=True).record["left_out"] == 1
    assert len(ImageArchive(tmp_path / "x.zip")) == 2


@pytest.mark.parametrize(("value", "same"), [(np.inf, 1.0), (1e9, 1.0), (-np.inf, 0.0), (np.nan, 0.0)])
def test_values_beyond_the_range_are_cut_off_before_resizing(value: float, same: float) -> None:
    odd, plain = RAMP.copy(), RAMP.copy()
    odd[16, 16], plain[16, 16] = value, same
    small = [crop_and_resize(decode(image, {"float": (0, 1)}), 8, 1) for image in (odd, plain)]
    assert np.array_equal(*small)
