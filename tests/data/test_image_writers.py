"""Every format of images is written; threads work while the stream goes on."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gsd_cli.catalogue.file_formats import ARCHIVE_FORMATS, IMAGE_FORMATS, SAMPLE_FORMATS
from gsd_cli.data.image_writers import MOST_WAITING, PILLOW_OPTIONS, WRITERS, map_in_threads, open_writer


def test_every_format_that_an_option_offers_has_a_writer() -> None:
    assert set(PILLOW_OPTIONS) == set(IMAGE_FORMATS)
    assert set(WRITERS) == {*IMAGE_FORMATS, *ARCHIVE_FORMATS} == set(SAMPLE_FORMATS.values())


@pytest.mark.parametrize("format_", ["folder", *WRITERS])
def test_a_scale_enlarges_every_image(format_: str, tmp_path: Path) -> None:
    """A pixel becomes a square; --scale is refused for .npz by the command."""
    image = torch.tensor([[[-1.0, 1.0], [1.0, -1.0]]])
    target = tmp_path / ("made" if format_ == "folder" else f"made.{format_}")
    open_writer(format_, target, scale=8)(iter([(3, image)]))
    if format_ == "npz":
        pixels = np.load(target)["images"][0, ..., 0]
    else:
        if format_ in ("zip", "tar"):
            shutil.unpack_archive(target, tmp_path / "out")
            target = tmp_path / "out"
        file = target if target.is_file() else target / "seed-00000003.png"
        with Image.open(file) as opened:
            pixels = np.asarray(opened.convert("L"))
    expected = np.kron([[0, 255], [255, 0]], np.ones((8, 8)))
    assert pixels.shape == (16, 16)
    assert np.abs(pixels - expected).max() <= (8 if format_ == "jpg" else 0)


def test_results_come_in_the_order_of_the_items() -> None:
    def work(n: int) -> int:
        time.sleep(0.002 * (n % 5 == 0))
        return n * n

    assert list(map_in_threads(work, range(700))) == [n * n for n in range(700)]


def test_the_stream_is_asked_for_more_while_work_is_under_way() -> None:
    second = threading.Event()

    def items() -> Iterator[int]:
        yield 0
        second.set()
        yield 1

    assert list(map_in_threads(lambda _: second.wait(10), items())) == [True, True]


def test_the_number_of_waiting_items_is_limited() -> None:
    gate, asked = threading.Event(), 0

    def items() -> Iterator[int]:
        nonlocal asked
        for asked in range(1, 3 * MOST_WAITING):
            if asked == MOST_WAITING + 1:
                threading.Timer(0.2, gate.set).start()
            assert asked <= MOST_WAITING + 1 or gate.is_set()
            yield asked

    assert len(list(map_in_threads(lambda _: gate.wait(10), items()))) == 3 * MOST_WAITING - 1


def test_an_error_is_raised_in_its_place_and_what_has_not_begun_never_does() -> None:
    begun = []

    def work(n: int) -> int:
        begun.append(n)
        time.sleep(0.01)
        if n == 3:
            raise OSError("full")
        return n

    found: list[int] = []
    with pytest.raises(OSError, match="full"):
        found.extend(map_in_threads(work, range(200)))
    assert found == [0, 1, 2]
    assert len(begun) < 100


def test_an_error_of_the_stream_ends_the_work() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(map_in_threads(lambda n: n, items()))
