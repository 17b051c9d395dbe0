from __future__ import annotations

import contextlib
import gzip
import io
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gsd_cli.data import sources
from gsd_cli.data.sources import FASHION_CLASSES, Source, decode, open_source
from gsd_cli.errors import GsdError


def encoded(picture: Image.Image, kind: str = "png", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def grey(value: int, size: tuple[int, int] = (4, 3)) -> bytes:
    return encoded(Image.new("L", size, value))


def opened(path: Path | str, cache: Path = Path("unused")) -> Source:
    return open_source(str(path), "train", cache, offline=True)


# -- decode -------------------------------------------------------------------------------------

CORNERS = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda a: a), (2, np.fliplr), (3, lambda a: np.rot90(a, 2)), (4, np.flipud), (5, np.transpose),
        (6, lambda a: np.rot90(a, -1)), (7, lambda a: np.rot90(a, 2).T), (8, lambda a: np.rot90(a, 1)),
    ],
)  # fmt: skip
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
    "la": (lambda: encoded(pixels("LA", (90, 255), (90, 0))), [(90, 90, 90), (255, 255, 255)]),
    "grey, transparent": (lambda: encoded(pixels("L", 5, 90), transparency=5), [(255,) * 3, (90,) * 3]),
    "16 bits": (lambda: sixteen_bits(0, 257 * 100, 65535), [0, 100, 255]),
    "16 bits, dark": (lambda: sixteen_bits(0, 200), [0, 1]),
    "cmyk": (
        lambda: encoded(pixels("CMYK", (0, 0, 0, 0), (0, 255, 255, 0), (0, 0, 0, 255)), "tiff"),
        [(255, 255, 255), (255, 0, 0), (0, 0, 0)],
    ),
    "float": (lambda: encoded(pixels("F", 0.0, 99.6, 255.0), "tiff"), [0, 100, 255]),
}


@pytest.mark.parametrize("name", CASES)
def test_every_mode_gives_the_right_pixels(name: str) -> None:
    make, expected = CASES[name]
    picture = decode(make())
    assert picture.mode == ("RGB" if isinstance(expected[0], tuple) else "L")
    assert [picture.getpixel((x, 0)) for x in range(picture.width)] == expected


def test_decode_reads_files_too(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(grey(9))
    assert decode(tmp_path / "a.png").getpixel((0, 0)) == 9


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    "payload",
    [
        b"", b"just text", b"\x89PNG\r\n\x1a\n", encoded(NOISE)[:-2000], encoded(NOISE, "jpeg")[:200],
        encoded(NOISE, "gif")[:100], encoded(NOISE, "tiff")[:500],
    ],
    ids=["empty", "text", "signature", "png", "jpeg", "gif", "tiff"],
)  # fmt: skip
def test_what_is_no_picture_raises_what_callers_expect(payload: bytes) -> None:
    with pytest.raises((ValueError, OSError)):
        decode(payload)


def claiming(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header claims to be large."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [10_001, 20_000, 60_000])
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


# -- folders ------------------------------------------------------------------------------------


def put(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(grey(value))


def contents(source: Source) -> list[tuple[int, int | None]]:
    return [(record.open().getpixel((0, 0)), record.label) for record in source.records()]


def test_a_folder_is_read_in_order_with_labels_from_its_subfolders(tmp_path: Path) -> None:
    put(tmp_path / "dog" / "deep" / "2.PNG", 20)
    put(tmp_path / "cat" / "1.png", 10)
    put(tmp_path / "cat" / "3.png", 30)
    (tmp_path / "cat" / "notes.txt").write_text("no picture")
    source = opened(tmp_path)
    assert source.total == 3
    assert source.classes == ("cat", "dog")
    assert contents(source) == [(10, 0), (30, 0), (20, 1)]
    assert [Path(r.name).name for r in source.records()] == ["1.png", "3.png", "2.PNG"]


@pytest.mark.parametrize("names", [["a.png", "b.png"], ["one/a.png", "one/b.png"], ["x/a.png", "y/b.png", "c.png"]])
def test_a_folder_without_several_classes_has_no_labels(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        put(tmp_path / name, 1)
    source = opened(tmp_path)
    assert source.classes == ()
    assert all(record.label is None for record in source.records())


def test_links_in_a_loop_and_hidden_files_are_left_out(tmp_path: Path) -> None:
    put(tmp_path / "a.png", 1)
    put(tmp_path / ".hidden.png", 2)
    put(tmp_path / "sub" / "._a.png", 3)
    (tmp_path / "sub" / "up").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "self.png").symlink_to(tmp_path / "self.png")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "folder.png").mkdir()
    source = opened(tmp_path)
    assert source.total == 1
    assert contents(source) == [(1, None)]


def test_hidden_folders_are_left_out(tmp_path: Path) -> None:
    put(tmp_path / "a.png", 1)
    put(tmp_path / ".thumbnails" / "a.png", 2)
    assert opened(tmp_path).total == 1


def test_a_bad_picture_is_met_when_it_is_opened(tmp_path: Path) -> None:
    put(tmp_path / "a.png", 1)
    (tmp_path / "b.png").write_text("no picture")
    good, bad = opened(tmp_path).records()
    good.open()
    with pytest.raises((ValueError, OSError)):
        bad.open()


# -- archives -----------------------------------------------------------------------------------


def make_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name, payload in members.items():
            file.writestr(name, payload)
    return path


def make_tar(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as file:
        for name, payload in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(payload)
            file.addfile(info, io.BytesIO(payload))
    return path


MAKERS = {"zip": make_zip, "tar": make_tar, "tar.gz": lambda p, m: make_tar(p, m, "w:gz")}


@pytest.mark.parametrize("kind", MAKERS)
def test_an_archive_is_read_like_a_folder(tmp_path: Path, kind: str) -> None:
    members = {"b/2.png": grey(20), "a/1.png": grey(10), "a/readme.md": b"x", "b/3.JPG": grey(30)}
    source = opened(MAKERS[kind](tmp_path / f"pictures.{kind}", members))
    assert (source.name, source.total, source.classes) == ("pictures", 3, ("a", "b"))
    assert contents(source) == [(10, 0), (20, 1), (30, 1)]
    assert contents(source) == [(10, 0), (20, 1), (30, 1)]  # it can be read again


@pytest.mark.parametrize("kind", MAKERS)
def test_a_leading_dot_is_no_folder(tmp_path: Path, kind: str) -> None:
    # tar -c . writes every name so
    members = {"./a/1.png": grey(10), "./b/2.png": grey(20)}
    source = opened(MAKERS[kind](tmp_path / f"a.{kind}", members))
    assert source.classes == ("a", "b")
    assert contents(source) == [(10, 0), (20, 1)]


@pytest.mark.parametrize("kind", MAKERS)
def test_nothing_is_written_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    inside = tmp_path / "deep" / "inside"
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    absolute = str(tmp_path / "absolute.png")
    members = {"../x.png": grey(1), absolute: grey(2), "ok.png": grey(3)}
    source = opened(MAKERS[kind](inside / f"a.{kind}", members))
    assert sorted(value for value, _ in contents(source)) == [1, 2, 3]
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [inside / f"a.{kind}"]


def test_links_in_a_tar_are_left_out(tmp_path: Path) -> None:
    put(tmp_path / "secret.png", 99)
    path = make_tar(tmp_path / "a.tar", {"real.png": grey(1)})
    with tarfile.open(path, "a") as file:
        for name, kind, target in (
            ("soft.png", tarfile.SYMTYPE, str(tmp_path / "secret.png")),
            ("hard.png", tarfile.LNKTYPE, "real.png"),
            ("pipe.png", tarfile.FIFOTYPE, ""),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            file.addfile(info)
    assert contents(opened(path)) == [(1, None)]


@pytest.mark.parametrize("kind", MAKERS)
def test_hidden_members_are_left_out(tmp_path: Path, kind: str) -> None:
    # what macOS puts beside every picture it packs
    members = {"a.png": grey(1), "__MACOSX/._a.png": b"\0\5\x16\7 no picture", ".b.png": b"x"}
    source = opened(MAKERS[kind](tmp_path / f"a.{kind}", members))
    assert source.total == 1
    assert contents(source) == [(1, None)]


def test_a_member_that_claims_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_MEMBER_BYTES", 10_000)
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.png", b"\0" * 10_001)
    with pytest.raises(GsdError, match="claims") as caught:
        opened(path)
    assert caught.value.code == 3


def damaged_member(path: Path) -> None:
    payload = grey(1, (64, 64))
    make_zip(path, {"a.png": payload})
    raw = bytearray(path.read_bytes())
    raw[raw.index(b"IDAT") + 6] ^= 255
    path.write_bytes(raw)


def damaged_deflate(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.png", encoded(NOISE))
    raw = bytearray(path.read_bytes())
    raw[35:60] = b"\xff" * 25
    path.write_bytes(raw)


def encrypted(path: Path) -> None:
    make_zip(path, {"a.png": grey(1)})
    raw = bytearray(path.read_bytes())
    raw[6] |= 1  # general purpose flag of the local header, then of the directory
    raw[raw.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(raw)


@pytest.mark.parametrize("damage", [damaged_member, damaged_deflate, encrypted])
def test_a_damaged_member_is_a_bad_picture(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    damage(tmp_path / "a.zip")
    for record in opened(tmp_path / "a.zip").records():
        with pytest.raises((ValueError, OSError)):
            record.open()


def test_an_archive_cut_short_is_an_input_error(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "a.tar.gz", {f"{i}.png": encoded(NOISE) for i in range(3)}, "w:gz")
    path.write_bytes(path.read_bytes()[:-4000])
    with pytest.raises(GsdError) as caught:
        list(opened(path).records())
    assert caught.value.code == 3


def test_a_zip_with_a_broken_directory_is_an_input_error(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", {"a.png": grey(1)})
    raw = bytearray(path.read_bytes())
    raw[raw.index(b"PK\1\2")] = 0
    path.write_bytes(raw)
    with pytest.raises(GsdError) as caught:
        opened(path)
    assert caught.value.code == 3


@pytest.mark.parametrize("spec", ["nowhere", "", "cifar-1000"])
def test_an_unknown_source_is_an_input_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(GsdError) as caught:
        opened(spec)
    assert caught.value.code == 3
    assert caught.value.hint


@pytest.mark.parametrize("kind", ["text", "folder", *MAKERS])
def test_a_source_without_images_is_an_input_error(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    if kind == "folder":
        path.mkdir()
    elif kind == "text":
        path.write_text("words")
    else:
        MAKERS[kind](path, {"readme.md": b"x"})
    with pytest.raises(GsdError) as caught:
        opened(path)
    assert caught.value.code == 3


# -- Fashion-MNIST ------------------------------------------------------------------------------


def idx(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}i", *array.shape)
    return gzip.compress(header + array.tobytes())


@pytest.fixture
def fashion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "fashion"
    folder.mkdir()
    for stem, n in (("train", 4), ("t10k", 2)):
        images = np.arange(n * 6, dtype=np.uint8).reshape(n, 2, 3)
        (folder / f"{stem}-images-idx3-ubyte.gz").write_bytes(idx(images))
        (folder / f"{stem}-labels-idx1-ubyte.gz").write_bytes(idx(np.arange(n, dtype=np.uint8)[::-1].copy()))
    monkeypatch.setattr(sources, "DEBIAN_FASHION", folder)
    return folder


@pytest.mark.parametrize(("split", "n"), [("train", 4), ("test", 2)])
def test_idx_files_are_read(fashion: Path, tmp_path: Path, split: str, n: int) -> None:
    source = open_source("fashion-mnist", split, tmp_path, offline=True)
    assert (source.total, source.classes, source.licence) == (n, FASHION_CLASSES, "MIT")
    records = list(source.records())
    assert [r.label for r in records] == list(range(n))[::-1]
    assert np.asarray(records[-1].open()).tolist() == (np.arange(6).reshape(2, 3) + 6 * (n - 1)).tolist()


def test_unknown_split_is_a_usage_error(fashion: Path, tmp_path: Path) -> None:
    with pytest.raises(GsdError) as caught:
        open_source("fashion-mnist", "validation", tmp_path, offline=True)
    assert caught.value.code == 2


def test_offline_without_the_files_is_a_network_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "DEBIAN_FASHION", tmp_path / "nowhere")
    with pytest.raises(GsdError) as caught:
        open_source("fashion-mnist", "train", tmp_path, offline=True)
    assert caught.value.code == 4


@pytest.mark.parametrize(
    "payload",
    [
        b"", b"no gzip", gzip.compress(b"\0\0"), idx(np.zeros((4, 2, 3), np.uint8))[:-12],
        gzip.compress(gzip.decompress(idx(np.zeros((4, 2, 3), np.uint8)))[:-3]),
    ],
    ids=["empty", "text", "short header", "cut gzip", "too few pixels"],
)  # fmt: skip
def test_a_damaged_idx_file_is_an_input_error(fashion: Path, tmp_path: Path, payload: bytes) -> None:
    (fashion / "train-images-idx3-ubyte.gz").write_bytes(payload)
    with pytest.raises(GsdError) as caught:
        open_source("fashion-mnist", "train", tmp_path, offline=True)
    assert caught.value.code == 3


def test_known_names_win_over_folders(fashion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkdir("fashion-mnist")
    assert opened("fashion-mnist").total == 4
