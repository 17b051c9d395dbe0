"""The range of values of images of other than 8 bits, and TIFFs against an independent writer of theirs."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gsd_cli.data.decode import decode, open_stored
from gsd_cli.data.raster import AS_STORED, upright
from gsd_cli.data.survey import survey
from tests.support.images import encoded

RAMP = np.linspace(0, 1, 48).reshape(6, 8)
EIGHT = (RAMP * 255).round().astype(np.uint8)
U16, S16 = "16-bit numbers from 0 (black) to", "signed 16-bit numbers from"
COLOURS = np.stack([RAMP, RAMP[::-1], 1 - RAMP], -1)


def tiff(pixels: np.ndarray, order: str = "<", *, photometric: int | None = None, more: dict[int, tuple] | None = None,
         compress: bool = False, tile: int = 0, planar: bool = False, bits: int = 0) -> bytes:  # fmt: skip
    """A TIFF of pixels [H, W] or [H, W, C], laid out by hand from the standard; tags are (type, values)."""
    array = pixels[..., None] if pixels.ndim == 2 else pixels
    height, width, samples = array.shape
    kind = {"u": 1, "i": 2, "f": 3}[array.dtype.kind]
    swapped = array.astype(array.dtype.newbyteorder(order))
    planes = [swapped[..., c : c + 1] for c in range(samples)] if planar else [swapped]
    blocks = []
    for plane in planes:
        if tile:
            padded = np.pad(plane, ((0, -height % tile), (0, -width % tile), (0, 0)), mode="edge")
            for y in range(0, height, tile):
                blocks += [padded[y : y + tile, x : x + tile].tobytes() for x in range(0, width, tile)]
        else:
            blocks += [plane[:4].tobytes(), plane[4:].tobytes()]
    blocks = [zlib.compress(block) for block in blocks] if compress else blocks
    tags: dict[int, tuple] = {
        256: (3, (width,)), 257: (3, (height,)), 258: (3, (bits or 8 * array.dtype.itemsize,) * samples),
        259: (3, (8 if compress else 1,)), 262: (3, (photometric if photometric is not None else 1,)),
        277: (3, (samples,)), 284: (3, (2 if planar else 1,)), 339: (3, (kind,) * samples),
    }  # fmt: skip
    starts = [8 + sum(map(len, blocks[:i])) for i in range(len(blocks))]
    where, sizes = (4, starts), (4, [len(block) for block in blocks])
    tags |= (
        {322: (3, (tile,)), 323: (3, (tile,)), 324: where, 325: sizes}
        if tile
        else {273: where, 279: sizes, 278: (3, (4,))}
    )
    tags |= more or {}
    codes = {3: "H", 4: "I", 11: "f", 8: "h", 12: "d"}
    body, data = b"".join(blocks), b""
    start = 8 + len(body)
    entries, after = b"", start + 2 + 12 * len(tags) + 4
    for tag, (code, values) in sorted(tags.items()):
        packed = struct.pack(f"{order}{len(values)}{codes[code]}", *values)
        if len(packed) > 4:
            entries += struct.pack(f"{order}HHII", tag, code, len(values), after + len(data))
            data += packed
        else:
            entries += struct.pack(f"{order}HHI", tag, code, len(values)) + packed.ljust(4, b"\0")
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, start)
    return head + body + struct.pack(f"{order}H", len(tags)) + entries + struct.pack(f"{order}I", 0) + data


def by_pillow(pixels: np.ndarray, kind: str = "tiff", **options: object) -> bytes:
    return encoded(Image.fromarray(pixels), kind, **options)


def by_tifffile(pixels: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **options)
    return buffer.getvalue()


def png16(pixels: np.ndarray, bits: int | None = None) -> bytes:
    """A PNG of 16-bit samples [H, W, C], not filtered, with an sBIT chunk if wanted."""
    height, width, samples = pixels.shape

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 3: 2, 4: 6}[samples], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    declared = chunk(b"sBIT", bytes([bits] * samples)) if bits else b""
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + declared
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def u16(top: int, values: np.ndarray = RAMP) -> np.ndarray:
    return (values * top).round().astype(np.uint16)


FILES: dict[str, tuple[bytes, str]] = {
    "floats in 0..1": (by_pillow(RAMP.astype(np.float32)), "floats from 0 (black) to 1"),
    "floats in -1..1": (by_pillow((2 * RAMP - 1).astype(np.float32)), "floats from -1 (black) to 1"),
    "floats in 0..255": (by_pillow((255 * RAMP).astype(np.float32)), "floats from 0 (black) to 255"),
    "floats in 0..65535": (tiff((65535 * RAMP).astype(np.float32)), "floats from 0 (black) to 65535"),
    "floats of no usual range": (tiff((4000 * RAMP - 1000).astype(np.float32)), "floats from -1000 (black) to 3000"),
    "doubles": (tiff(RAMP, ">"), "floats from 0 (black) to 1"),
    "half floats": (tiff(RAMP.astype(np.float16)), "floats from 0 (black) to 1"),
    "floats that overshoot": (tiff((1.02 * RAMP - 0.01).astype(np.float32)), "floats from 0 (black) to 1"),
    "12 bits in 16": (tiff(u16(4095)), f"{U16} 4095"),
    "10 bits in 16": (tiff(u16(1023)), f"{U16} 1023"),
    "8 bits in 16": (tiff(u16(255)), f"{U16} 255"),
    "16 bits": (tiff(u16(65535), ">"), f"{U16} 65535"),
    "16 bits, PNG": (by_pillow(u16(65535), "png"), f"{U16} 65535"),
    "12 bits in 16, PNG": (by_pillow(u16(4095), "png"), f"{U16} 4095"),
    "12 bits in 16, colour PNG": (png16(u16(4095, COLOURS)), f"{U16} 4095"),
    "12 bits in 16, colour TIFF": (tiff(u16(4095, COLOURS), photometric=2), f"{U16} 4095"),
    "16 bits, colour TIFF of planes": (tiff(u16(65535, COLOURS), ">", photometric=2, planar=True), U16),
    "signed 16 bits": (tiff((65535 * RAMP - 32768).round().astype(np.int16)), f"{S16} -32768"),
    "signed 16 bits of 12": (tiff((4095 * RAMP - 1024).round().astype(np.int16), ">"), f"{S16} -1024"),
    "signed 16 bits from 0": (tiff((4095 * RAMP).round().astype(np.int16)), f"{S16} 0 (black) to 4095"),
    "signed 16 bits from 0 to their top": (tiff((32767 * RAMP).round().astype(np.int16)), f"{S16} 0 (black) to 32767"),
    "signed 8 bits": (tiff((255 * RAMP - 128).round().astype(np.int8)), "signed 8-bit numbers from -128"),
    "32 bits": (tiff((RAMP * (2**32 - 1)).round().astype(np.uint32)), "32-bit numbers from 0 (black) to 4.29497e+09"),
    "deflated tiles": (tiff(u16(4095), compress=True, tile=16), f"{U16} 4095"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_values_become_black_to_white_and_it_is_said(name: str) -> None:
    payload, said = FILES[name]
    looked = survey([payload])
    found = np.asarray(decode(payload, looked.ranges)).astype(int)
    expected = (COLOURS * 255 if "colour" in name else RAMP * 255).round()
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= (3 if "overshoot" in name else 1)
    assert looked.messages[0].startswith(f"values: {said}")
    assert looked.messages[0].endswith("as 1 image shows; --value-range changes it")


DECLARED: dict[str, tuple[bytes, float, float]] = {
    "SMin and SMax": (tiff((RAMP / 2).astype(np.float32), more={340: (11, (0.0,)), 341: (11, (2.0,))}), 0, 2),
    "SMin and SMax, signed": (tiff((9 * RAMP - 5).astype(np.int16), more={340: (8, (-99,)), 341: (8, (99,))}), -99, 99),
    "MaxSampleValue": (tiff(u16(900), more={280: (3, (0,)), 281: (3, (4095,))}), 0, 4095),
    "sBIT of 12, not scaled up": (png16(u16(4000)[..., None], 12), 0, 4095),
    "sBIT of 12, scaled up": (png16(u16(65535)[..., None], 12), 0, 65535),
    "sBIT of 16, dark": (png16(u16(900)[..., None], 16), 0, 65535),
    "PGM": (b"P5 8 6 4095\n" + u16(900).astype(">u2").tobytes(), 0, 65535),  # Pillow scales by its maximum
}  # fmt: skip


@pytest.mark.parametrize("name", DECLARED)
def test_a_declared_range_comes_first(name: str) -> None:
    payload, low, high = DECLARED[name]
    looked = survey([payload])
    assert list(looked.ranges.values()) == [(low, high)]
    assert looked.messages[0].endswith("as the files declare")


def test_packed_samples_of_12_bits_declare_their_range() -> None:
    values = u16(3000).flatten()
    bits = "".join(f"{value:012b}" for value in values)
    packed = np.frombuffer(int(bits, 2).to_bytes(len(bits) // 8, "big"), np.uint8).reshape(6, 12)
    payload = tiff(packed, more={256: (3, (8,)), 258: (3, (12,))})
    looked = survey([payload])
    assert looked.ranges == {"uint16": (0, 4095)}
    assert np.abs(np.asarray(decode(payload, looked.ranges)) - u16(3000) / 4095 * 255).max() <= 0.5


def test_a_declaration_that_the_values_leave_is_not_believed() -> None:
    payload = tiff((RAMP * 255).astype(np.float32), more={340: (11, (0.0,)), 341: (11, (1.0,))})
    assert survey([payload]).ranges == {"float": (0, 255)}


def test_one_range_serves_the_whole_set() -> None:
    dark, bright = by_pillow((RAMP / 10).astype(np.float32)), by_pillow((RAMP * 200).astype(np.float32))
    looked = survey([dark, bright, b"bad", by_pillow(u16(4095), "png"), by_pillow(EIGHT, "png")])
    assert looked.ranges == {"float": (0, 200), "uint16": (0, 4095)}
    assert np.asarray(decode(dark, looked.ranges)).max() == 0
    assert looked.channels == 1


def test_the_user_decides_first() -> None:
    looked = survey([by_pillow((RAMP / 10).astype(np.float32))], value_range=(-1, 1))
    assert looked.ranges == {"any": (-1, 1)}
    assert np.asarray(decode(by_pillow(RAMP.astype(np.float32)), looked.ranges)).min() == 128
    assert looked.messages[0].endswith("as --value-range says")


def test_floats_without_a_range_are_refused_and_whole_numbers_fill_their_type() -> None:
    with pytest.raises(ValueError, match="--value-range"):
        decode(by_pillow(RAMP.astype(np.float32)))
    assert np.asarray(decode(tiff(u16(65535)), AS_STORED)).max() == 255
    assert np.asarray(decode(tiff(u16(255)), AS_STORED)).max() == 1


def test_values_that_are_not_finite_do_not_decide() -> None:
    odd = RAMP.astype(np.float32).copy()
    odd[0, :3] = np.nan, np.inf, -np.inf
    looked = survey([by_pillow(odd)])
    assert looked.ranges == {"float": (0, 1)}
    assert np.asarray(decode(by_pillow(odd), looked.ranges))[0, :3].tolist() == [0, 255, 0]


def test_white_is_zero() -> None:
    payload = tiff(u16(65535), photometric=0)
    assert np.abs(np.asarray(decode(payload)).astype(int) - (255 - EIGHT.astype(int))).max() <= 1


@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits", "tiff_adobe_deflate", "zstd", "lzma"])
@pytest.mark.parametrize("mode", ["I;16", "F"])
def test_what_libtiff_compressed_is_read(compression: str, mode: str) -> None:
    pixels = np.tile(u16(65535) if mode == "I;16" else RAMP.astype(np.float32), (5, 7))
    for predictor in (1, 2) if mode == "I;16" else (1, 3):
        if compression == "packbits" and predictor != 1:
            continue
        try:
            payload = by_pillow(pixels, compression=compression, tiffinfo={317: predictor})
        except (KeyError, OSError):
            pytest.skip(f"this Pillow does not write {compression}")
        raster = open_stored(payload).raster
        assert raster is not None
        assert np.array_equal(raster.pixels[..., 0], pixels)


def test_colours_with_alpha_lie_on_white() -> None:
    alpha = np.zeros((6, 8, 1))
    alpha[:, 4:] = 1
    for payload in (png16(u16(65535, np.concatenate([COLOURS, alpha], 2))),
                    tiff(u16(65535, np.concatenate([COLOURS, alpha], 2)), photometric=2, more={338: (3, (2,))}),
                    tiff(u16(65535, np.concatenate([COLOURS, alpha], 2)), photometric=2)):  # fmt: skip
        found = np.asarray(decode(payload)).astype(int)
        assert found.shape == (6, 8, 3)
        assert (found[:, :4] == 255).all()
        assert np.abs(found[:, 4:] - (255 * COLOURS)[:, 4:]).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientations_agree_with_pillow(orientation: int) -> None:
    turned = tiff(u16(65535), more={274: (3, (orientation,))})
    with Image.open(io.BytesIO(tiff(EIGHT, more={274: (3, (orientation,))}))) as image:
        image.load()  # Pillow turns a TIFF itself
        expected = np.asarray(image)
    assert np.abs(np.asarray(decode(turned)).astype(int) - expected).max() <= 1
    assert np.array_equal(upright(EIGHT, orientation), expected)


CHANNELS: dict[str, tuple[np.ndarray, dict]] = {
    "two": (u16(65535, np.stack([RAMP, 1 - RAMP], -1)), {}),
    "four, grey": (np.stack([EIGHT] * 4, -1), {"more": {338: (3, (0, 0, 0))}}),
    "RGB and infrared": (np.stack([EIGHT] * 4, -1), {"photometric": 2, "more": {338: (3, (0,))}}),
    "five": (np.stack([EIGHT] * 5, -1), {"photometric": 2, "more": {338: (3, (0, 0))}}),
    "sixteen of floats": (np.stack([RAMP] * 16, -1).astype(np.float32), {"planar": True}),
}


@pytest.mark.parametrize("name", CHANNELS)
def test_every_channel_of_a_tiff_is_read(name: str) -> None:
    pixels, options = CHANNELS[name]
    payload = tiff(pixels, **options)
    looked = survey([payload])
    assert looked.channels == pixels.shape[2]
    found = decode(payload, looked.ranges)
    assert isinstance(found, np.ndarray)
    scale = 255 / {"u1": 255, "u2": 65535, "f4": 1}[pixels.dtype.str[1:]]
    assert np.abs(found - pixels * scale).max() <= 0.51


@pytest.mark.parametrize(
    "text", ["ImageJ=1.53t\nimages=4\nchannels=4\n", '<OME><Image><Pixels SizeC="4" SizeZ="1" SizeT="1"/>']
)
def test_pages_are_channels_where_the_file_says_so(tmp_path: Path, text: str) -> None:
    pages = [Image.fromarray(np.roll(EIGHT, i, 1)) for i in range(4)]
    pages[0].save(tmp_path / "x.tif", save_all=True, append_images=pages[1:], description=text)
    found = decode(tmp_path / "x.tif")
    assert np.array_equal(found, np.stack([np.asarray(page) for page in pages], -1))
    pages[0].save(tmp_path / "y.tif", save_all=True, append_images=pages[1:])
    looked = survey([tmp_path / "y.tif"])
    assert looked.messages == ("1 image with several pages or frames: the first is read",)
    assert np.array_equal(np.asarray(decode(tmp_path / "y.tif")), EIGHT)


WRITTEN = [
    tiff(u16(65535, COLOURS), photometric=2),
    tiff(u16(4095), compress=True, tile=16),
    *(by_tifffile(np.tile(u16(65535), (4, 4)), compression=name, predictor=name == "lzw")
      for name in ("lzw", "packbits", "zlib", "lzma", "zstd")),
]  # fmt: skip


@pytest.mark.parametrize("cut", [9, 40, 120, 200])
def test_a_damaged_tiff_is_no_crash(cut: int) -> None:
    whole = tiff(u16(65535, COLOURS), photometric=2)
    for payload in (whole[:-cut], whole[: cut // 2] + b"\xff" * 8 + whole[cut // 2 + 8 :]):
        shape = None
        with contextlib.suppress(ValueError, OSError):  # refused; any other error is a crash
            shape = np.asarray(decode(payload)).shape
        assert shape in (None, COLOURS.shape)


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_a_tiff_with_changed_bytes_is_refused_or_read(data: st.DataObject) -> None:
    written = bytearray(data.draw(st.sampled_from(WRITTEN)))
    for place, value in data.draw(
        st.lists(st.tuples(st.integers(0, len(written) - 1), st.integers(0, 255)), max_size=6)
    ):
        written[place] = value
    found = None
    with contextlib.suppress(ValueError, OSError):  # refused; any other error is a crash
        found = np.asarray(decode(bytes(written), {"any": (0, 65535)}))
    assert found is None or (found.dtype == np.uint8 and found.ndim in (2, 3) and found.size > 0)


def test_a_compression_whose_decoder_may_crash_is_not_tried() -> None:
    with pytest.raises(ValueError, match="compression JPEGXR, which gsd does not read"):
        decode(by_tifffile(u16(65535), compression="jpegxr"))


@pytest.mark.parametrize("options", [{"predictor": True}, {"tile": (16, 16)}, {"bigtiff": True}, {"byteorder": ">"}])
@pytest.mark.parametrize("compression", ["lzw", "zlib", "lzma", "zstd"])
def test_what_tifffile_wrote_is_read(compression: str, options: dict) -> None:
    pixels = np.tile(u16(65535, COLOURS), (5, 7, 1))
    raster = open_stored(by_tifffile(pixels, photometric="rgb", compression=compression, **options)).raster
    assert raster is not None
    assert np.array_equal(raster.pixels, pixels)


@pytest.mark.parametrize("payload", [by_pillow(EIGHT, "png"), by_pillow(u16(4095), "png"), tiff(COLOURS), EIGHT])
def test_images_that_are_enlarged_are_counted(payload: bytes | np.ndarray) -> None:
    said = "1 of 2 images are smaller than 7 pixels: enlarged"
    assert said in survey([payload, by_pillow(np.tile(EIGHT, (2, 2)), "png")], size=7).messages
    assert said not in survey([payload], size=6).messages


def test_images_that_cannot_be_read_are_counted_where_colours_are() -> None:
    grey, colour = by_pillow(EIGHT, "png"), by_pillow((COLOURS * 255).astype(np.uint8), "png")
    looked = survey([grey, colour, colour, b"", b"text", colour[:-30]])
    assert looked.messages == (
        "colour: 2 of 6 images have colours, 1 are grey, 3 cannot be read (--grey stores one channel)",
    )
