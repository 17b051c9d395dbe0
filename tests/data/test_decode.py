from __future__ import annotations

import contextlib
import io
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from gsd_cli.data.decode import crop_and_resize, decode
from gsd_cli.data.png import encode_png
from tests.support.images import NOISE, claiming, encoded, grey

CORNERS = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda a: a), (2, np.fliplr), (3, lambda a: np.rot90(a, 2)), (4, np.flipud), (5, np.transpose),
        (6, lambda a: np.rot90(a, -1)), (7, lambda a: np.rot90(a, 2).T), (8, lambda a: np.rot90(a, 1)),
    ],
)  # fmt: skip
@pytest.mark.fault(11, "EXIF rotations")
def test_exif_orientation_is_undone(orientation: int, upright: Callable[[np.ndarray], np.ndarray]) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = decode(encoded(Image.fromarray(CORNERS), exif=exif))
    assert np.array_equal(np.asarray(picture), upright(CORNERS))


def palette() -> bytes:
    picture = Image.new("P", (2, 1))
    picture.putpalette([10, 20, 30, 200, 100, 50])
    picture.putpixel((1, 0), 1)
    return encoded(picture)


def palette_with_transparency() -> bytes:
    picture = Image.new("P", (2, 1))
    picture.putpalette([10, 20, 30, 200, 100, 50])
    picture.putpixel((1, 0), 1)
    return encoded(picture, transparency=0)


def pixels(mode: str, *values: object) -> Image.Image:
    picture = Image.new(mode, (len(values), 1))
    for x, value in enumerate(values):
        picture.putpixel((x, 0), value)
    return picture


def sixteen_bits(*values: int) -> bytes:
    return encoded(Image.fromarray(np.array([values], np.uint16)))


CASES = {
    "grey": (lambda: encoded(pixels("L", 0, 77, 255)), [0, 77, 255]),
    "one bit": (lambda: encoded(pixels("1", 1, 0)), [255, 0]),
    "rgb": (lambda: encoded(pixels("RGB", (1, 2, 3))), [(1, 2, 3)]),
    "palette": (palette, [(10, 20, 30), (200, 100, 50)]),
    "palette, transparent": (palette_with_transparency, [(255, 255, 255), (200, 100, 50)]),
    "rgba": (
        lambda: encoded(pixels("RGBA", (10, 20, 30, 255), (10, 20, 30, 0), (0, 0, 0, 51))),
        [(10, 20, 30), (255, 255, 255), (204, 204, 204)],
    ),
    "la": (lambda: encoded(pixels("LA", (90, 255), (90, 0))), [90, 255]),
    "grey, transparent": (lambda: encoded(pixels("L", 5, 90), transparency=5), [255, 90]),
    "16 bits": (lambda: sixteen_bits(0, 257 * 100, 65535), [0, 100, 255]),
    "16 bits, dark": (lambda: sixteen_bits(0, 200), [0, 1]),
    "cmyk": (
        lambda: encoded(pixels("CMYK", (0, 0, 0, 0), (0, 255, 255, 0), (0, 0, 0, 255)), "tiff"),
        [(255, 255, 255), (255, 0, 0), (0, 0, 0)],
    ),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.fault(11, "images of every mode")
def test_every_mode_gives_the_right_pixels(name: str) -> None:
    make, expected = CASES[name]
    picture = decode(make())
    assert picture.mode == ("RGB" if isinstance(expected[0], tuple) else "L")
    assert [picture.getpixel((x, 0)) for x in range(picture.width)] == expected


def test_decode_reads_files_too(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(grey(9))
    assert decode(tmp_path / "a.png").getpixel((0, 0)) == 9


@pytest.mark.parametrize(
    "payload",
    [
        b"", b"just text", b"\x89PNG\r\n\x1a\n", encoded(NOISE)[:-2000], encoded(NOISE, "jpeg")[:200],
        encoded(NOISE, "gif")[:100], encoded(NOISE, "tiff")[:500],
    ],
    ids=["empty", "text", "signature", "png", "jpeg", "gif", "tiff"],
)  # fmt: skip
@pytest.mark.fault(11, "bytes that are no image")
def test_what_is_no_picture_raises_what_callers_expect(payload: bytes) -> None:
    with pytest.raises((ValueError, OSError)):
        decode(payload)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [10_001, 20_000, 60_000])
@pytest.mark.fault(11, "PNGs of 100 megapixels and more")
def test_a_decompression_bomb_is_refused(side: int) -> None:
    with pytest.raises((ValueError, OSError), match="pixels"):
        decode(claiming(side, side))


def test_a_broken_chunk_is_no_crash() -> None:
    payload = bytearray(encoded(NOISE))
    payload[33:37] = struct.pack(">I", 20)  # IDAT ends early: what follows is no chunk
    with pytest.raises((ValueError, OSError)):
        decode(bytes(payload))


def test_broken_exif_is_no_crash() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    payload = encoded(NOISE, "webp", exif=exif).replace(b"MM\x00*", b"MM\x07*")
    with contextlib.suppress(ValueError, OSError):
        assert decode(payload).size == (32, 32)


def test_arrays_and_causes_are_payloads_too() -> None:
    assert np.array_equal(np.asarray(decode(CORNERS)), CORNERS)
    with pytest.raises(ValueError, match="gone"):
        decode(ValueError("gone"))


def test_postscript_is_never_interpreted(tmp_path: Path) -> None:
    page = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(x) (w) file closefile\nshowpage\n%%EOF\n"
    with Image.open(io.BytesIO(page)) as known_to_pillow:
        assert known_to_pillow.format == "EPS"
    with pytest.raises(ValueError, match="not one of the image formats"):
        decode(page)


# -- encode -------------------------------------------------------------------------------------


@given(
    st.tuples(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 3])).flatmap(
        lambda shape: arrays(np.uint8, shape)
    )
)
def test_pillow_reads_back_what_was_encoded(image: np.ndarray) -> None:
    with Image.open(io.BytesIO(encode_png(image))) as picture:
        assert picture.format == "PNG"
        assert picture.mode == ("L" if image.shape[2] == 1 else "RGB")
        assert np.array_equal(np.asarray(picture).reshape(image.shape), image)


@pytest.mark.parametrize("side", [147, 148, 255, 256])  # around one and three stored blocks of deflate
def test_large_pictures_span_several_blocks(side: int) -> None:
    image = np.random.default_rng(side).integers(0, 256, (side, side, 3), dtype=np.uint8)
    payload = encode_png(image)
    with Image.open(io.BytesIO(payload)) as picture:
        picture.verify()
    assert np.array_equal(np.asarray(decode(payload)), image)


# -- crop and resize ----------------------------------------------------------------------------


def test_crop_and_resize_crops_the_centre() -> None:
    wide = np.zeros((4, 10, 3), np.uint8)
    wide[:, 3:7] = np.random.default_rng(0).integers(0, 255, (4, 4, 3))
    assert np.array_equal(crop_and_resize(Image.fromarray(wide), 4, 3), wide[:, 3:7])
    tall = wide.transpose(1, 0, 2)
    assert np.array_equal(crop_and_resize(Image.fromarray(tall), 4, 3), tall[3:7])


@pytest.mark.parametrize(("size", "channels"), [(4, 1), (4, 3), (32, 1), (32, 3)])
def test_crop_and_resize_resizes(size: int, channels: int) -> None:
    grey = np.full((16, 16), 90, np.uint8)
    fitted = crop_and_resize(Image.fromarray(grey), size, channels)
    assert fitted.shape == (size, size, channels)
    assert fitted.dtype == np.uint8
    assert (fitted == 90).all()


def test_crop_and_resize_is_antialiased() -> None:
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 255
    fitted = crop_and_resize(Image.fromarray(stripes), 8, 1).astype(float)
    # nearest or bilinear without a filter would keep whole stripes
    assert np.abs(fitted[:, 1:-1] - 127.5).max() < 10


def test_crop_and_resize_to_grey_uses_luma() -> None:
    red = Image.new("RGB", (8, 8), (255, 0, 0))
    assert (crop_and_resize(red, 8, 1) == 76).all()


CUT = {
    "PNG": encoded(NOISE)[:-1500],
    "JPEG": encoded(NOISE, "jpeg")[:-400],
    "JPEG header": encoded(NOISE, "jpeg")[:200],
    "WebP": encoded(NOISE, "webp", lossless=True)[:-900],
    "TIFF": encoded(NOISE, "tiff")[:-900],
    "GIF": encoded(NOISE, "gif")[:-300],
    "BMP": encoded(NOISE, "bmp")[:-900],
    "16-bit TIFF": encoded(Image.fromarray(np.zeros((32, 32), np.uint16)), "tiff")[:-900],
}


@pytest.mark.parametrize("name", CUT)
def test_a_file_that_ends_early_is_said_to_in_plain_words(name: str) -> None:
    said = "it is damaged" if name == "WebP" else "it is cut short: the file ends before the image does"
    with pytest.raises(ValueError, match=f"^{said}"):
        decode(CUT[name])


def test_an_empty_file_is_said_to_be_empty() -> None:
    with pytest.raises(ValueError, match=r"^the file is empty$"):
        decode(b"")
