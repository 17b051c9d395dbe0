"""From images to a data set: the right pixels, the same bytes whatever happened on the way."""

from __future__ import annotations

import json
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gsd_cli.base.errors import GsdError, Stopped
from gsd_cli.base.signals import StopRequest
from gsd_cli.data import chunks
from gsd_cli.data.build import Preparation, Prepared, UnreadableImages, prepare
from gsd_cli.data.chunks import Chunk, group_payloads, make_chunk, read_chunk
from gsd_cli.data.dataset import ImageArchive
from gsd_cli.data.decode import Payload
from gsd_cli.data.labels import Labels
from gsd_cli.data.sources.open import open_source
from gsd_cli.data.sources.source import Source
from gsd_cli.data.sources.subset import choose_places, take, take_labels
from gsd_cli.data.survey import survey
from tests.support.images import NOISE, claiming, encoded, grey, make_tar, make_zip

RNG = np.random.default_rng(5)
PIXELS = RNG.integers(0, 256, (300, 8, 8, 3), dtype=np.uint8)


def of_arrays(pixels: np.ndarray = PIXELS) -> Source:
    return Source(
        "arrays", [str(i) for i in range(len(pixels))], lambda places: (pixels[p] for p in places), "arrays-1"
    )


def made(
    source: Source,
    target: Path,
    *,
    size: int = 8,
    skip_bad: bool = False,
    workers: int = 1,
    labels: Labels | None = None,
    stop: StopRequest | None = None,
    stop_at: int | None = None,
    limit: int | None = None,
    shards: int | None = None,
) -> Prepared:
    stop = stop or StopRequest()

    def on_done(done: int) -> None:
        if stop_at is not None and done >= stop_at:
            stop.code = 130  # type: ignore[assignment]

    if limit is not None:
        places = choose_places(source.names, labels, limit)
        source, labels = take(source, places), take_labels(labels, places)
    looked = survey(source.payloads(range(len(source.names))), source.names)
    recipe = Preparation(size, looked.channels, looked.ranges, shards)
    return prepare(source, target, recipe, labels, skip_bad, workers, stop, on_done)


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("form", ["x.zip", "x.json"])
def test_pixels_labels_and_moments(tmp_path: Path, form: str) -> None:
    values = [i % 7 for i in range(300)]
    prepared = made(
        of_arrays(), tmp_path / form, labels=Labels(values, tuple("abcdefg")), shards=4 if "json" in form else None
    )
    data = ImageArchive(tmp_path / form)
    assert torch.equal(data.uint8(torch.arange(300)), torch.from_numpy(PIXELS).permute(0, 3, 1, 2))
    assert data.labels is not None
    assert data.labels.tolist() == values
    record = json.loads(json.dumps(prepared.record))
    assert data.record == record
    assert (record["images"], record["size"], record["channels"], record["left_out"]) == (300, 8, 3, 0)
    assert record["classes"] == list("abcdefg")
    exact = PIXELS.astype(np.float64) / 127.5 - 1
    np.testing.assert_allclose(record["mean"], exact.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(record["variance"], exact.var((0, 1, 2)), rtol=1e-12)


def test_attributes_are_kept_with_their_names(tmp_path: Path) -> None:
    values = [(i % 2, 1, int(i > 5)) for i in range(300)]
    made(of_arrays(), tmp_path / "x.zip", labels=Labels(values, attributes=("Odd", "All", "Late")))
    data = ImageArchive(tmp_path / "x.zip")
    assert data.record["attributes"] == ["Odd", "All", "Late"]
    assert data.labels is not None
    assert data.labels.int().tolist() == [list(v) for v in values]
    with zipfile.ZipFile(tmp_path / "x.zip") as archive:  # as EDM's ImageFolderDataset makes an array of them
        edm = np.array([label for _, label in json.loads(archive.read("dataset.json"))["labels"]])
    assert edm.shape == (300, 3)


@pytest.mark.parametrize("form", ["x.zip", "x.json"])
def test_workers_stops_and_leftovers_do_not_change_a_byte(tmp_path: Path, form: str) -> None:
    shards = 3 if form == "x.json" else None
    whole = tmp_path / "whole" / form
    made(of_arrays(), whole, shards=shards)
    expected = files(whole.parent)

    parallel = tmp_path / "parallel" / form
    made(of_arrays(), parallel, shards=shards, workers=2)
    assert files(parallel.parent) == expected

    stopped = tmp_path / "stopped" / form
    for stop_at in (1, 129):
        with pytest.raises(Stopped):
            made(of_arrays(), stopped, shards=shards, stop_at=stop_at)
        assert not list(stopped.parent.glob("x*"))
    (work,) = stopped.parent.glob(".x*")
    kept = sorted(work.glob("*.chunk"))
    assert len(kept) >= 2
    kept[0].write_bytes(kept[0].read_bytes()[:-1] + b"?")  # a power cut
    (work / ".tmp-1-000000000.chunk").write_bytes(b"half")
    made(of_arrays(), stopped, shards=shards, workers=2)
    assert files(stopped.parent) == expected


def test_a_resumed_run_does_not_decode_again(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        made(of_arrays(), tmp_path / "x.zip", stop_at=256)
    starts = []

    def payloads(places: Sequence[int]) -> Iterator[Payload]:
        starts.append(places[0])
        return (PIXELS[place] for place in places)

    resumed = Source("arrays", of_arrays().names, payloads, "arrays-1")
    recipe = Preparation(8, 3)
    prepare(resumed, tmp_path / "x.zip", recipe, None, False, 1, StopRequest(), lambda done: None)
    assert starts == [256]


@pytest.mark.parametrize("change", ["size", "limit", "pixels"])
def test_work_for_something_else_is_not_taken(tmp_path: Path, change: str) -> None:
    with pytest.raises(Stopped):
        made(of_arrays(), tmp_path / "x.zip", stop_at=256)
    source = of_arrays()
    if change == "pixels":
        source = Source("arrays", source.names, lambda places: (255 - PIXELS[p] for p in places), "arrays-2")
    options = {"size": {"size": 16}, "limit": {"limit": 40}, "pixels": {}}[change]
    made(source, tmp_path / "x.zip", **options)  # type: ignore[arg-type]
    made(source, tmp_path / "fresh" / "x.zip", **options)  # type: ignore[arg-type]
    assert files(tmp_path / "fresh") == {"x.zip": (tmp_path / "x.zip").read_bytes()}
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


@pytest.mark.parametrize(("limit", "shards"), [(1, 1), (5, 3), (2, 7), (300, 300), (None, 2)])
def test_limits_and_shards(tmp_path: Path, limit: int | None, shards: int) -> None:
    made(of_arrays(), tmp_path / "x.json", limit=limit, shards=shards)
    n = limit or 300
    index = json.loads((tmp_path / "x.json").read_text())
    counts = [entry["nsamples"] for entry in index["shardlist"]]
    assert sum(counts) == n
    assert len(counts) == min(n, shards)
    assert max(counts) - min(counts) <= 1
    last = choose_places(of_arrays().names, None, n)[-1]
    assert torch.equal(
        ImageArchive(tmp_path / "x.json").uint8(torch.tensor([n - 1]))[0],
        torch.from_numpy(PIXELS[last]).permute(2, 0, 1),
    )


# -- bad images -------------------------------------------------------------------------------

GOOD: dict[str, bytes] = {
    "grey.png": grey(100, (9, 9)),
    "alpha.png": encoded(Image.new("RGBA", (10, 9), (10, 20, 30, 255))),
    "palette.png": encoded(Image.new("P", (9, 12))),
    "wide.png": encoded(Image.fromarray(np.full((9, 30), 65535 // 2, np.uint16))),
    "print.jpg": encoded(Image.new("CMYK", (20, 10)), "jpeg"),
    "photo.jpg": encoded(NOISE, "jpeg"),
    "odd näme\n[x].webp": encoded(NOISE, "webp"),
}
BAD: dict[str, bytes] = {
    "empty.png": b"",
    "text.png": b"this is text",
    "cut.png": encoded(NOISE)[:-1500],
    "cut.jpg": encoded(NOISE, "jpeg")[:-400],
    "bomb.png": claiming(20_000, 10_000),
    "script.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n",
}


def folder_of(path: Path, members: dict[str, bytes]) -> Path:
    path.mkdir()
    for name, payload in members.items():
        (path / name).write_bytes(payload)
    return path


FORMS = {"folder": folder_of, "zip": make_zip, "tar": make_tar, "tar.gz": lambda p, m: make_tar(p, m, "w:gz")}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.fault(11, "bad images in folders and archives")
def test_every_bad_picture_is_named_and_good_ones_are_right(tmp_path: Path, form: str) -> None:
    suffix = "" if form == "folder" else f".{form}"
    mixed = FORMS[form](tmp_path / f"mixed{suffix}", {**GOOD, **BAD})
    source = open_source(str(mixed), "train", tmp_path, offline=True)
    with pytest.raises(UnreadableImages) as caught:
        made(source, tmp_path / "x.zip")
    assert caught.value.code == 3
    assert sorted(problem.split(":")[0] for problem in caught.value.problems) == sorted(BAD)
    assert not (tmp_path / "x.zip").exists()

    prepared = made(source, tmp_path / "x.zip", skip_bad=True)
    assert sorted(name for name, _ in prepared.bad) == sorted(BAD)
    assert (prepared.record["images"], prepared.record["left_out"]) == (len(GOOD), len(BAD))
    (tmp_path / "good").mkdir()
    clean = FORMS[form](tmp_path / "good" / f"mixed{suffix}", GOOD)
    made(open_source(str(clean), "train", tmp_path, offline=True), tmp_path / "good" / "x.zip")
    with zipfile.ZipFile(tmp_path / "x.zip") as mine, zipfile.ZipFile(tmp_path / "good" / "x.zip") as other:
        pictures = [name for name in other.namelist() if name.endswith("png")]
        assert [n for n in mine.namelist() if n.endswith("png")] == pictures
        assert all(mine.read(name) == other.read(name) for name in pictures)


def test_labels_stay_with_their_pictures_when_bad_ones_go(tmp_path: Path) -> None:
    members = {f"{i:02d}.png": grey(10 * i) if i % 3 else b"bad" for i in range(12)}
    source = open_source(str(folder_of(tmp_path / "in", members)), "train", tmp_path, offline=True)
    made(source, tmp_path / "x.zip", skip_bad=True, labels=Labels(list(range(12))))
    data = ImageArchive(tmp_path / "x.zip")
    assert data.labels is not None
    assert (10 * data.labels).tolist() == data.uint8(torch.arange(8))[:, 0, 0, 0].tolist()


@pytest.mark.parametrize("skip_bad", [True, False])
def test_refused_members_are_bad_pictures(tmp_path: Path, skip_bad: bool) -> None:
    path = make_tar(tmp_path / "in.tar", {"../x.png": grey(1), "ok.png": grey(2)})
    with tarfile.open(path, "a") as archive:
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    source = open_source(str(path), "train", tmp_path, offline=True)
    if skip_bad:
        assert made(source, tmp_path / "x.zip", skip_bad=True).record["images"] == 1
    else:
        with pytest.raises(UnreadableImages) as caught:
            made(source, tmp_path / "x.zip")
        assert {problem.split(":")[0] for problem in caught.value.problems} == {"../x.png", "link.png"}


@pytest.mark.parametrize("skip_bad", [True, False])
@pytest.mark.fault(11, "no readable image")
def test_nothing_readable_is_an_input_error(tmp_path: Path, skip_bad: bool) -> None:
    source = open_source(str(folder_of(tmp_path / "in", BAD)), "train", tmp_path, offline=True)
    with pytest.raises(GsdError) as caught:
        made(source, tmp_path / "x.zip", skip_bad=skip_bad)
    assert caught.value.code == 3
    assert not (tmp_path / "x.zip").exists()


@pytest.mark.fault(11, "one image")
def test_one_image_is_a_data_set(tmp_path: Path) -> None:
    made(of_arrays(PIXELS[:1]), tmp_path / "x.zip")
    assert len(ImageArchive(tmp_path / "x.zip")) == 1


# -- chunks -------------------------------------------------------------------------------------


def test_chunks_end_at_many_images_bytes_or_pixels(tmp_path: Path) -> None:
    def sizes(payloads: list[Payload], pixels: int) -> list[int]:
        found = list(group_payloads(iter(payloads), 7, pixels))
        assert [start for start, _ in found] == [7 + sum(len(g) for _, g in found[:i]) for i in range(len(found))]
        assert [p for _, group in found for p in group] == payloads
        return [len(group) for _, group in found]

    small: list[Payload] = [b"x"] * 300
    assert sizes(small, 64) == [128, 128, 44]
    assert sizes(small[:10], chunks.MOST_PIXELS // 4) == [4, 4, 2]
    assert sizes(small[:3], 2 * chunks.MOST_PIXELS) == [1, 1, 1]
    assert sizes([bytes(chunks.MOST_BYTES // 2)] * 5, 64) == [2, 2, 1]
    path = tmp_path / "photo"
    path.write_bytes(bytes(chunks.MOST_BYTES))
    assert sizes([path, tmp_path / "gone", path], 64) == [1, 2]
    assert sizes([], 64) == []


def test_a_chunk_that_is_not_whole_is_none(tmp_path: Path) -> None:
    make_chunk(tmp_path, 5, [PIXELS[0], ValueError("gone"), PIXELS[1]], 8, 3, {}, lambda: False)
    chunk = read_chunk(tmp_path, 5)
    assert isinstance(chunk, Chunk)
    assert (chunk.start, chunk.count, chunk.places, chunk.bad) == (5, 3, [5, 7], [[6, "gone"]])
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    for damaged in (
        b"",
        whole[:10],
        whole[:-1],
        whole.replace(b'"count": 3', b'"kount": 3'),
        whole[:-9] + b"x" + whole[-8:],
    ):
        file.write_bytes(damaged)
        assert read_chunk(tmp_path, 5) is None
    file.write_bytes(whole)
    file.rename(tmp_path / "000000006.chunk")
    assert read_chunk(tmp_path, 6) is None
    assert read_chunk(tmp_path, 5) is None


@pytest.mark.parametrize("value", [255, 0, 77])
def test_sums_of_the_largest_pictures_are_exact(value: int) -> None:
    total, squares = chunks._moments(np.full((1024, 1024, 3), value, np.uint8))
    assert total.tolist() == [value * 2**20] * 3
    assert squares.tolist() == [value**2 * 2**20] * 3


def test_a_stopped_chunk_leaves_nothing(tmp_path: Path) -> None:
    polls = iter([False, True])
    make_chunk(tmp_path, 0, list(PIXELS[:5]), 8, 3, {}, lambda: next(polls))
    assert list(tmp_path.iterdir()) == []
