from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gsd_cli.data import archive as archive_module
from gsd_cli.data.archive import ArchiveWriter, ImageArchive
from gsd_cli.data.pictures import fit_picture, from_uint8, save_grid, tile, to_pil, to_uint8
from gsd_cli.errors import GsdError


def random_images(n: int, size: int = 8, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, size, size, channels), dtype=np.uint8)


def write(path: Path, images: np.ndarray, labels: list[int | None] | None = None) -> dict:
    writer = ArchiveWriter(path)
    for image, label in zip(images, labels or [None] * len(images), strict=True):
        writer.add(image, label)
    return writer.close({"source": "test"})


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("in_memory", [True, False])
def test_round_trip_is_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channels: int, in_memory: bool) -> None:
    monkeypatch.setattr(archive_module, "KEEP_IN_MEMORY", 2**30 if in_memory else 0)
    images = random_images(7, channels=channels)
    write(tmp_path / "a.zip", images)
    data = ImageArchive(tmp_path / "a.zip")
    assert len(data) == 7
    assert data.shape == (channels, 8, 8)
    assert data.labels is None
    order = torch.tensor([6, 0, 3, 3])
    expected = torch.from_numpy(images).permute(0, 3, 1, 2)
    assert torch.equal(data.uint8(order), expected[order])
    batch = data.batch(order)
    assert batch.dtype == torch.float32
    np.testing.assert_allclose(batch.numpy(), expected[order].numpy() / 127.5 - 1, atol=1e-6)
    assert torch.equal(to_uint8(batch), expected[order])
    whole = list(data.batches(3))
    assert [len(b) for b in whole] == [3, 3, 1]
    assert torch.equal(to_uint8(torch.cat(whole)), expected)


def test_the_same_images_give_the_same_bytes(tmp_path: Path) -> None:
    images = random_images(4)
    write(tmp_path / "a.zip", images, [0, 1, 0, 1])
    write(tmp_path / "b.zip", images, [0, 1, 0, 1])
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    write(tmp_path / "c.zip", images[::-1], [0, 1, 0, 1])
    assert (tmp_path / "a.zip").read_bytes() != (tmp_path / "c.zip").read_bytes()


def test_the_layout_is_the_one_edm_reads(tmp_path: Path) -> None:
    images = np.zeros((1002, 2, 2, 1), np.uint8)
    write(tmp_path / "a.zip", images, [i % 5 for i in range(1002)])
    with zipfile.ZipFile(tmp_path / "a.zip") as file:
        names = file.namelist()
        assert names[0] == "00000/img00000000.png"
        assert names[1001] == "00001/img00001001.png"
        assert all(info.compress_type == zipfile.ZIP_STORED for info in file.infolist())
        labels = dict(json.loads(file.read("dataset.json"))["labels"])
        assert Image.open(io.BytesIO(file.read(names[0]))).format == "PNG"
    assert labels["00001/img00001001.png"] == 1001 % 5
    assert ImageArchive(tmp_path / "a.zip").labels.tolist() == [i % 5 for i in range(1002)]


def test_labels_are_all_or_none(tmp_path: Path) -> None:
    write(tmp_path / "a.zip", random_images(3), [0, None, 1])
    assert ImageArchive(tmp_path / "a.zip").labels is None


def test_labels_follow_names_not_order(tmp_path: Path, toy_archive_path: Path) -> None:
    path = tmp_path / "shuffled.zip"
    with zipfile.ZipFile(toy_archive_path) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            payload = old.read(name)
            if name == "dataset.json":
                payload = json.dumps({"labels": json.loads(payload)["labels"][::-1]}).encode()
            new.writestr(name, payload)
    assert ImageArchive(path).labels.tolist() == [i % 3 for i in range(12)]


@pytest.mark.parametrize("channels", [1, 3])
def test_mean_and_variance(tmp_path: Path, channels: int) -> None:
    images = random_images(5, channels=channels)
    images[..., 0] //= 3
    record = write(tmp_path / "a.zip", images)
    pixels = images.astype(np.float64) / 127.5 - 1
    np.testing.assert_allclose(record["mean"], pixels.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(record["variance"], pixels.var((0, 1, 2)), rtol=1e-9)
    assert (record["images"], record["size"], record["channels"], record["source"]) == (5, 8, channels, "test")
    assert ImageArchive(tmp_path / "a.zip").record == record


# -- what is refused ----------------------------------------------------------------------------


def missing(path: Path) -> None:
    path.unlink()


def text(path: Path) -> None:
    path.write_text("not a zip")


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def rewrite(path: Path, **members: bytes) -> None:
    with zipfile.ZipFile(path) as old:
        kept = {n: old.read(n) for n in old.namelist()}
    with zipfile.ZipFile(path, "w") as new:
        for name, payload in {**kept, **{k.replace("__", "."): v for k, v in members.items()}}.items():
            new.writestr(name, payload)


def empty(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("gsd.json", "{}")


def no_picture(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("00000/img00000000.png", b"text")


def broken_index(path: Path) -> None:
    rewrite(path, dataset__json=b"{")


def foreign_labels(path: Path) -> None:
    rewrite(path, dataset__json=b'{"labels": [["other.png", 1]]}')


def misshapen_labels(path: Path) -> None:
    rewrite(path, dataset__json=b'{"labels": [["a.png"]]}')


@pytest.mark.parametrize(
    "damage",
    [missing, text, truncated, a_folder, empty, no_picture, broken_index, foreign_labels, misshapen_labels],
)
def test_what_is_no_data_set_is_an_input_error(tmp_path: Path, damage) -> None:
    path = tmp_path / "a.zip"
    write(path, random_images(3))
    damage(path)
    with pytest.raises(GsdError) as caught:
        ImageArchive(path)
    assert caught.value.code == 3


def test_damage_behind_the_first_image_is_an_input_error(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    write(path, random_images(5))
    with zipfile.ZipFile(path) as file:
        offset = file.getinfo("00000/img00000003.png").header_offset + 90
    payload = bytearray(path.read_bytes())
    payload[offset] ^= 8
    path.write_bytes(payload)
    with pytest.raises(GsdError) as caught:
        ImageArchive(path).uint8(torch.arange(5))
    assert caught.value.code == 3


def test_pictures_of_several_sizes_are_an_input_error(tmp_path: Path) -> None:
    writer = ArchiveWriter(tmp_path / "a.zip")
    writer.add(np.zeros((8, 8, 3), np.uint8), None)
    writer.add(np.zeros((4, 4, 3), np.uint8), None)
    writer.close({})
    with pytest.raises(GsdError) as caught:
        ImageArchive(tmp_path / "a.zip").uint8(torch.arange(2))
    assert caught.value.code == 3


# -- pictures -----------------------------------------------------------------------------------


def test_every_byte_survives_the_way_to_floats_and_back() -> None:
    every = torch.arange(256, dtype=torch.uint8)
    floats = from_uint8(every)
    assert floats[0] == -1
    assert floats[255] == 1
    assert torch.equal(to_uint8(floats), every)
    assert to_uint8(torch.tensor([-3.0, 3.0, 0.0])).tolist() == [0, 255, 128]


def test_tile_puts_images_in_reading_order(tmp_path: Path) -> None:
    images = torch.linspace(-1, 1, 5).reshape(5, 1, 1, 1).expand(5, 1, 2, 3)
    picture = tile(images, columns=2)
    assert picture.shape == (1, 6, 6)
    assert torch.equal(picture[0, ::2, ::3], torch.tensor([[-1.0, -0.5], [0.0, 0.5], [1.0, -1.0]]))
    assert tile(images).shape == (1, 4, 9)
    path = save_grid(images, tmp_path / "sub" / "grid.png", columns=5, scale=2)
    with Image.open(path) as saved:
        assert (saved.size, saved.mode) == ((30, 4), "L")
        assert np.asarray(saved)[0, ::6].tolist() == [0, 64, 128, 191, 255]


def test_to_pil_keeps_channels() -> None:
    image = torch.tensor([1.0, -1.0, 0.0]).reshape(3, 1, 1).expand(3, 2, 4)
    picture = to_pil(image)
    assert (picture.mode, picture.size, picture.getpixel((0, 0))) == ("RGB", (4, 2), (255, 0, 128))
    assert to_pil(image[:1]).mode == "L"


def test_fit_picture_crops_the_centre() -> None:
    wide = np.zeros((4, 10, 3), np.uint8)
    wide[:, 3:7] = np.random.default_rng(0).integers(0, 255, (4, 4, 3))
    assert np.array_equal(fit_picture(Image.fromarray(wide), 4, 3), wide[:, 3:7])
    tall = wide.transpose(1, 0, 2)
    assert np.array_equal(fit_picture(Image.fromarray(tall), 4, 3), tall[3:7])


@pytest.mark.parametrize(("size", "channels"), [(4, 1), (4, 3), (32, 1), (32, 3)])
def test_fit_picture_resizes(size: int, channels: int) -> None:
    grey = np.full((16, 16), 90, np.uint8)
    fitted = fit_picture(Image.fromarray(grey), size, channels)
    assert fitted.shape == (size, size, channels)
    assert fitted.dtype == np.uint8
    assert (fitted == 90).all()


def test_fit_picture_is_antialiased() -> None:
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 255
    fitted = fit_picture(Image.fromarray(stripes), 8, 1).astype(float)
    # nearest or bilinear without a filter would keep whole stripes
    assert np.abs(fitted[:, 1:-1] - 127.5).max() < 10


def test_fit_picture_to_grey_uses_luma() -> None:
    red = Image.new("RGB", (8, 8), (255, 0, 0))
    assert (fit_picture(red, 8, 1) == 76).all()
