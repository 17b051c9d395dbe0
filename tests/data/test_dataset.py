from __future__ import annotations

import io
import json
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gsd_cli.base.errors import GsdError
from gsd_cli.data import dataset as archive_module
from gsd_cli.data.dataset import ImageArchive
from gsd_cli.data.dataset_writers import ArchiveWriter, write_shards
from gsd_cli.data.pixels import from_uint8, save_grid, tile, to_pil, to_uint8
from gsd_cli.data.png import encode_png


def random_images(n: int, size: int = 8, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, size, size, channels), dtype=np.uint8)


def write(
    path: Path, images: np.ndarray, labels: list | None = None, record: dict | None = None, captions: list | None = None
) -> Path:
    """The images in the form that `path` says: a .zip, a .json with three shards, or a folder."""
    record = record or {"source": "test"}
    path.parent.mkdir(parents=True, exist_ok=True)
    labels = labels or [None] * len(images)
    captions = captions or [None] * len(images)
    if path.suffix == ".json":
        samples = ((3 * i // len(images), encode_png(image), labels[i], captions[i]) for i, image in enumerate(images))
        write_shards(path, path.parent, samples, lambda: record)
        return path
    archive = path.with_suffix(".zip")
    writer = ArchiveWriter(archive)
    for image, label, caption in zip(images, labels, captions, strict=True):
        writer.add(encode_png(image), label, caption)
    writer.close(record)
    if path.suffix != ".zip":
        with zipfile.ZipFile(archive) as file:
            file.extractall(path)
    return path


FORMS = ["a.zip", "a.json", "a"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("in_memory", [True, False])
def test_round_trip_is_exact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channels: int, in_memory: bool, form: str
) -> None:
    monkeypatch.setattr(archive_module, "KEEP_IN_MEMORY", 2**30 if in_memory else 0)
    images = random_images(7, channels=channels)
    data = ImageArchive(write(tmp_path / form, images))
    assert data.record == {"source": "test"}
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
    images = np.zeros((1002, 2, 2, 1), np.uint8)  # names, folders and labels as EDM's dataset_tool.py writes them
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


@pytest.mark.parametrize("form", FORMS)
def test_labels_are_all_or_none(tmp_path: Path, form: str) -> None:
    assert ImageArchive(write(tmp_path / form, random_images(3), [0, None, 1])).labels is None


@pytest.mark.parametrize("form", FORMS)
def test_classes_and_attributes_come_back(tmp_path: Path, form: str) -> None:
    classes = ImageArchive(write(tmp_path / form, random_images(5), [4, 0, 1, 4, 2])).labels
    assert classes is not None
    assert (classes.dtype, classes.tolist()) == (torch.int64, [4, 0, 1, 4, 2])
    rows = [(0, 1, 0), (1, 1, 1), (0, 0, 0), (1, 0, 0)]
    attributes = ImageArchive(write(tmp_path / f"b{form[1:]}", random_images(4), rows)).labels
    assert attributes is not None
    assert attributes.dtype == torch.bool
    assert attributes.tolist() == [[bool(x) for x in row] for row in rows]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("in_memory", [True, False])
def test_many_threads_may_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, in_memory: bool) -> None:
    monkeypatch.setattr(archive_module, "KEEP_IN_MEMORY", 2**30 if in_memory else 0)
    images = random_images(60, size=16)
    data = ImageArchive(write(tmp_path / form, images))
    orders = [torch.randperm(60, generator=torch.Generator().manual_seed(i)) for i in range(16)]
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(data.uint8, orders))
    expected = torch.from_numpy(images).permute(0, 3, 1, 2)
    assert all(torch.equal(mine, expected[order]) for mine, order in zip(read, orders, strict=True))


def test_shards_are_what_others_read(tmp_path: Path) -> None:
    images = random_images(7)
    index = json.loads(write(tmp_path / "set.json", images, list(range(7))).read_text())
    assert index["__kind__"] == "wids-shard-index-v1"
    assert [entry["nsamples"] for entry in index["shardlist"]] == [3, 2, 2]
    samples = []
    for entry in index["shardlist"]:
        path = tmp_path / entry["url"]
        assert path.stat().st_size == entry["filesize"]
        with tarfile.open(path) as file:
            samples += [(m.name, file.extractfile(m).read(), m.mode, m.mtime) for m in file]
    assert [name for name, *_ in samples] == [f"img{i:08d}.{kind}" for i in range(7) for kind in ("png", "cls")]
    assert [payload for name, payload, *_ in samples if name.endswith("cls")] == [str(i).encode() for i in range(7)]
    assert [payload for name, payload, *_ in samples if name.endswith("png")] == [encode_png(i) for i in images]
    assert {facts for *_, mode, mtime in samples for facts in [(mode, mtime)]} == {(0o644, 0)}


def test_fewer_shards_replace_more(tmp_path: Path) -> None:
    write(tmp_path / "set.json", random_images(9))
    (tmp_path / "set-notes.tar").write_bytes(b"mine")
    write(tmp_path / "set.json", random_images(2))
    assert {p.name for p in tmp_path.glob("*.tar")} == {"set-000000.tar", "set-000001.tar", "set-notes.tar"}


def test_labels_follow_names_not_order(tmp_path: Path, toy_archive_path: Path) -> None:
    path = tmp_path / "shuffled.zip"
    with zipfile.ZipFile(toy_archive_path) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            payload = old.read(name)
            if name == "dataset.json":
                payload = json.dumps({"labels": json.loads(payload)["labels"][::-1]}).encode()
            new.writestr(name, payload)
    assert ImageArchive(path).labels.tolist() == [i % 3 for i in range(12)]


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


def short_shard(folder: Path) -> None:
    path = folder / "set-000001.tar"
    path.write_bytes(path.read_bytes()[:-1024])


def lost_shard(folder: Path) -> None:
    (folder / "set-000002.tar").unlink()


def swapped_shard(folder: Path) -> None:  # the right size, but not the right content
    (folder / "set-000001.tar").write_bytes(bytes((folder / "set-000001.tar").stat().st_size))


def other_json(folder: Path) -> None:
    (folder / "set.json").write_text("[1, 2]")


@pytest.mark.parametrize("damage", [short_shard, lost_shard, swapped_shard, other_json])
def test_damaged_shards_are_an_input_error(tmp_path: Path, damage) -> None:
    write(tmp_path / "set.json", random_images(9))
    damage(tmp_path)
    with pytest.raises(GsdError) as caught:
        ImageArchive(tmp_path / "set.json").uint8(torch.arange(9))
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
    writer.add(encode_png(np.zeros((8, 8, 3), np.uint8)), None)
    writer.add(encode_png(np.zeros((4, 4, 3), np.uint8)), None)
    writer.close({})
    with pytest.raises(GsdError) as caught:
        ImageArchive(tmp_path / "a.zip").uint8(torch.arange(2))
    assert caught.value.code == 3


# -- images -----------------------------------------------------------------------------------


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


@pytest.mark.parametrize("form", FORMS)
def test_captions_are_read_with_labels_and_without(tmp_path: Path, form: str) -> None:
    texts = ["a cat", "", "\u00e9t\u00e9, \u65e5", "four", "a cat"]
    images = random_images(5)
    assert ImageArchive(write(tmp_path / "plain" / form, images)).captions is None
    for labels in (None, [0, 1, 1, 0, 2]):
        data = ImageArchive(
            write(tmp_path / str(labels is None) / form, images, labels, captions=[t or "-" for t in texts])
        )
        assert data.captions == tuple(t or "-" for t in texts)
        assert (None if data.labels is None else data.labels.tolist()) == labels


def test_captions_of_some_images_alone_are_not_kept(tmp_path: Path) -> None:
    assert ImageArchive(write(tmp_path / "a.zip", random_images(2), captions=["a cat", None])).captions is None


def test_captions_that_are_no_texts_are_an_error(tmp_path: Path) -> None:
    data = ImageArchive(write(tmp_path / "a.zip", random_images(2), captions=["a cat", 5]))
    with pytest.raises(GsdError, match="captions"):
        _ = data.captions
