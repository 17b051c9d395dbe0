"""Which names are classes: the layouts people have, one a row."""

from __future__ import annotations

import io
import json
import unicodedata
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gsd_cli.base.errors import GsdError
from gsd_cli.data.labels import read_labels
from gsd_cli.data.sources.layout import read_layout
from gsd_cli.data.sources.open import open_path
from tests.support.images import MAKERS, grey, make_tar, make_zip, put

POSITIONS = "no labels: numbered folders are positions"


def of(*folders: str, count: int = 2) -> list[str]:
    return [f"{folder}/{i}.png" for folder in folders for i in range(count)]


def digits(count: int, form: str) -> list[str]:
    """Names made of the numbers 0, 500, 1000, ..."""
    return [form.format(i=i, thousand=i // 1000, first=i // 1000 * 1000, last=i % 1000) for i in range(0, count, 500)]


LAYOUTS: dict[str, tuple[list[str], tuple[str, ...] | None, str]] = {
    "class folders": (of("dog", "cat"), ("cat", "dog"), "2 classes from folder names: cat, dog"),
    "deeper folders belong to a class": (of("cat/tabby", "cat/black", "dog"), ("cat", "dog"), "2 classes"),
    "wrapped": (of("pets/cat", "pets/dog"), ("cat", "dog"), "2 classes"),
    "wrapped twice": (of("x/pets/cat", "x/pets/dog"), ("cat", "dog"), "2 classes"),
    "leading dots of tar": (of("./cat", "./dog"), ("cat", "dog"), "2 classes"),
    "Windows": ([r"pets\cat\1.png", r"pets\dog\1.png"], ("cat", "dog"), "2 classes"),
    "numbers as text": (of(*map(str, range(12))), tuple(map(str, range(12))), "12 classes"),
    "numbers with a point": (of("10.0", "2.0", "0.0"), ("0.0", "2.0", "10.0"), "3 classes"),
    "accents in two forms": (of("caf\u00e9", "cafe\u0301", "bar"), ("bar", "caf\u00e9"), "2 classes"),
    "identities of seven digits": (of("0000045", "0000099"), ("0000045", "0000099"), "2 classes"),
    "digits with numbered files": (of("0", "1", "2", count=30), ("0", "1", "2"), "3 classes"),
    "digits of two places": (of("01", "02", count=30), ("01", "02"), "2 classes"),
    "a train is a vehicle": (of("bus", "train"), ("bus", "train"), "2 classes"),
    "EDM and gsd": (digits(3000, "{thousand:05d}/img{i:08d}.png"), None, POSITIONS),
    "FFHQ": (digits(3000, "{first:05d}/{i:05d}.png"), None, POSITIONS),
    "FFHQ, wrapped": (digits(3000, "images1024x1024/{first:05d}/{i:05d}.png"), None, POSITIONS),
    "FFHQ, renamed files": (of("00000", "01000", "02000"), None, POSITIONS),
    "last digits": (digits(3000, "{last:04d}/{i}.jpg"), None, POSITIONS),
    "img2dataset": (["00000/000000003.jpg", "00001/000010003.jpg"], None, POSITIONS),
    "hashes": (["3f/3f02c9d1e4.png", "a0/a0ffe1b2c3.png"], None, POSITIONS),
    "one folder": (of("photos"), None, "no labels: no folders that differ"),
    "no folder": (["1.png", "2.png"], None, "no labels: no folders that differ"),
    "one outside": ([*of("cat", "dog"), "x.png"], None, "no labels: 1 of 5 images lie in no class folder (x.png)"),
    "nothing": ([], None, "no labels"),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_what_folders_say(name: str) -> None:
    names, classes, said = LAYOUTS[name]
    layout = read_layout(names, "train", Path("source"))
    assert layout.names == names
    assert (layout.labels.classes if layout.labels else None) == classes
    assert layout.labels_message.startswith(said)
    if layout.labels and classes:
        for path, value in zip(names, layout.labels.values, strict=True):
            folder = unicodedata.normalize("NFC", path.replace("\\", "/")).split("/")
            assert classes[value] in folder  # type: ignore[index]


SPLITS: dict[str, tuple[list[str], str, list[str], tuple[str, ...] | None]] = {
    "train": (["train/cat/1.png", "train/dog/1.png", "val/cat/2.png"], "train", ["train"], ("cat", "dog")),
    "test": (["train/cat/1.png", "test/cat/2.png", "test/dog/2.png"], "test", ["test"], ("cat", "dog")),
    "valid": (["train/cat/1.png", "valid/cat/2.png", "valid/dog/2.png"], "val", ["valid"], ("cat", "dog")),
    "wrapped": (["x/train/cat/1.png", "x/train/dog/1.png", "x/test/dog/2.png"], "train", ["x/train"], ("cat", "dog")),
    "twice": (["seg_train/seg_train/sea/1.png", "seg_train/seg_train/ice/1.png", "seg_test/seg_test/sea/2.png",
               "seg_pred/seg_pred/3.png"], "train", ["seg_train"], ("ice", "sea")),
    "capitals": (["Training/a/1.png", "Training/b/1.png", "Testing/a/2.png"], "train", ["Training"], ("a", "b")),
    "ImageNet": (["D/CLS/train/n01/1.JPEG", "D/CLS/train/n02/1.JPEG", "D/CLS/val/2.JPEG", "D/CLS/test/3.JPEG"],
                 "train", ["D/CLS/train"], ("n01", "n02")),
    "below the classes": (["cat/train/1.png", "dog/train/1.png", "cat/val/2.png"], "train",
                          ["cat/train", "dog/train"], ("cat", "dog")),
    "below wrapped classes": (["x/cat/Validation/1.png", "x/dog/val/1.png", "x/cat/train/2.png"], "val",
                              ["x/cat/Validation", "x/dog/val"], ("cat", "dog")),
    "COCO": (["train2017/1.jpg", "train2017/2.jpg", "val2017/3.jpg"], "train", ["train2017"], None),
}  # fmt: skip


@pytest.mark.parametrize("name", SPLITS)
def test_split_folders_are_no_classes(name: str) -> None:
    names, split, kept, classes = SPLITS[name]
    layout = read_layout(names, split, Path("source"))
    assert layout.names == [path for path in names if path.rpartition("/")[0].startswith(tuple(kept))]
    assert (layout.labels.classes if layout.labels else None) == classes
    assert layout.messages[0].startswith(f"split {split}: {len(layout.names)} of {len(names)} images")


def test_a_split_that_is_not_there_is_a_usage_error() -> None:
    with pytest.raises(GsdError, match="no split 'train'") as caught:
        read_layout(of("val/cat", "test/cat"), "train", Path("source"))
    assert (caught.value.code, caught.value.hint) == (2, "test or val")


@pytest.mark.parametrize("names", [of("cat", "dog"), ["1.png"], of("train/cat", "train/dog"), of("cat/test", "dog")])
def test_a_split_of_a_source_without_splits_is_a_usage_error(names: list[str]) -> None:
    with pytest.raises(GsdError, match="no split 'test'") as caught:
        read_layout(names, "test", Path("source"))
    assert caught.value.code == 2
    assert read_layout(names, "train", Path("source")).names == names


@pytest.mark.parametrize("where", ["test", "pets-test.zip", "x_test.npy", "pets_testing_lmdb"])
def test_a_source_may_say_that_it_is_the_split(where: str) -> None:
    assert read_layout(of("cat", "dog"), "test", Path(where)).labels is not None
    assert len(read_layout(of("x/test/cat", "x/test/dog"), "test", Path("source")).names) == 4


@pytest.mark.parametrize("name", ["x.npy", "x.npz", "x.json", "x.zip", "x.tar"])
def test_a_file_without_splits_has_no_other_split(tmp_path: Path, name: str) -> None:
    images = {"a/1.png": grey(1), "b/1.png": grey(2)}
    stack = np.zeros((2, 4, 4), np.uint8)
    {"x.npy": lambda path: np.save(path, stack), "x.npz": lambda path: np.savez(path, images=stack),
     "x.json": lambda path: path.write_text("{}"), "x.zip": lambda path: make_zip(path, images),
     "x.tar": lambda path: make_tar(path, images)}[name](tmp_path / name)  # fmt: skip
    with pytest.raises(GsdError, match="no split 'test'") as caught:
        open_path(tmp_path / name, "test")
    assert caught.value.code == 2


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (
            [*of("cat/train", "cat/val"), "dog/1.png"],
            "cat/train and cat/val look like splits, but dog/1.png is in none",
        ),
        (of("train", "val", "others"), "train and val look like splits, but others/0.png is in none"),
    ],
)
def test_splits_that_are_not_everywhere_are_warned_of(names: list[str], said: str) -> None:
    layout = read_layout(names, "train", Path("source"))
    assert layout.names == names
    assert said in layout.warnings[0]
    assert read_layout(of("bus", "train"), "train", Path("source")).warnings == ()


@pytest.mark.parametrize("form", ["folder", "zip", "tar"])
@pytest.mark.parametrize(
    ("table", "named"), [("labels.csv", True), ("list_attr_celeba.txt", True), ("readme.txt", False)]
)
def test_a_table_next_to_unlabelled_images_is_pointed_at(tmp_path: Path, form: str, table: str, named: bool) -> None:
    source = open_path(FORMS[form](tmp_path / f"x.{form}", {"1.png": grey(1), table: b"1.png,cat"}), "train")
    assert source.labels_message.startswith("no labels: no folders that differ")
    assert (f"{table} may hold some: " in source.labels_message) == named
    assert not named or "--labels" in source.labels_message
    labelled = FORMS[form](tmp_path / f"y.{form}", {"a/1.png": grey(1), "b/1.png": grey(1), table: b""})
    assert "may hold" not in open_path(labelled, "train").labels_message


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("kind", ["folder", *MAKERS])
def test_every_source_reads_one_split(tmp_path: Path, kind: str, split: str) -> None:
    members = {"train/b/1.png": grey(1), "val/a/2.png": grey(2), "train/a/3.png": grey(3), "val/b/4.png": grey(4)}
    path = tmp_path / f"x.{kind}"
    if kind == "folder":
        for name, payload in members.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(payload)
    else:
        MAKERS[kind](path, members)
    source, other = open_path(path, split), open_path(path, "val" if split == "train" else "train")
    assert sorted(source.names) == sorted(name for name in members if name.startswith(split))
    assert len(list(source.payloads([0, 1]))) == 2
    assert source.labels is not None
    assert source.labels.classes == ("a", "b")
    assert source.identity != other.identity


NUMBERED = {"00000/img00000000.png": grey(1), "00001/img00001000.png": grey(2)}
NAMED = dict(zip(NUMBERED, (1, 0), strict=True))


def edm(labels: object) -> bytes:
    return json.dumps({"labels": labels}).encode()


def as_folder(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(make_zip(path.with_suffix(".tmp"), members)) as archive:
        archive.extractall(path)
    return path


FORMS: dict[str, Callable[[Path, dict[str, bytes]], Path]] = {"zip": make_zip, "tar": make_tar, "folder": as_folder}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("wrapper", ["", "set/", "a/set/"])
@pytest.mark.parametrize("said", ["null", "classes", "names", "Windows", "continuous", "attributes"])
def test_a_dataset_json_decides(tmp_path: Path, form: str, wrapper: str, said: str) -> None:
    listed: object = [[name, value] for name, value in NAMED.items()]
    record, expected, decided = b"{}", [1, 0], "2 classes from dataset.json: numbers 0 to 1"
    if said == "null":
        listed, expected, decided = None, None, "no labels: dataset.json says that there are none"  # type: ignore[assignment]
    elif said == "names":
        record, decided = b'{"classes": ["cat", "dog"]}', "2 classes from dataset.json: cat, dog"
    elif said == "Windows":
        listed = [[name.replace("/", "\\"), value] for name, value in NAMED.items()]
    elif said == "continuous":
        listed = [[name, [0.25, 0.5]] for name in NAMED]
        expected, decided = None, "no labels: those of dataset.json are no classes or attributes"  # type: ignore[assignment]
    elif said == "attributes":
        listed = [[name, [0, value]] for name, value in NAMED.items()]
        record, decided = b'{"attributes": ["Male", "Young"]}', "2 attributes from dataset.json: Male, Young"
        expected = [(0, 1), (0, 0)]  # type: ignore[list-item]
    members = {**NUMBERED, "dataset.json": edm(listed), "gsd.json": record}
    source = open_path(FORMS[form](tmp_path / f"x.{form}", {wrapper + n: b for n, b in members.items()}), "train")
    assert (list(source.labels.values) if source.labels else None) == expected
    assert source.labels_message.startswith(decided)
    assert bool(source.warnings) == (said == "continuous")


@pytest.mark.parametrize(
    ("texts", "values", "classes"),
    [
        (["0.0", "1.0", "10.0", "2.0"], [0, 1, 10, 2], ()),
        (["1", "3", "2", "3"], [0, 2, 1, 2], ("1", "2", "3")),
        (["0.5", "10.5", "2.5", "-1"], [1, 3, 2, 0], ("-1", "0.5", "2.5", "10.5")),
        (["90210", "10115", "75001", "90210"], [2, 0, 1, 2], ("10115", "75001", "90210")),
        (["9", "b", "10", "b"], [1, 2, 0, 2], ("10", "9", "b")),
        (["nan", "1", "inf", "1"], [2, 0, 1, 0], ("1", "inf", "nan")),
        (["e\u0301", "\u00e9", "a", "a"], [1, 1, 0, 0], ("a", "\u00e9")),
    ],
    ids=["zeros behind a point", "from 1", "numbers", "codes", "text", "no numbers", "accents"],
)
def test_numbers_stay_numbers(tmp_path: Path, texts: list[str], values: list[int], classes: tuple[str, ...]) -> None:
    names = [f"{i}.png" for i in range(len(texts))]
    (tmp_path / "l.csv").write_text("".join(f"{n},{t}\n" for n, t in zip(names, texts, strict=True)))
    labels = read_labels(tmp_path / "l.csv", names)
    assert (labels.values, labels.classes) == (values, classes)


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_accents_of_names_and_labels_need_not_be_stored_alike(tmp_path: Path, forms: tuple[str, str]) -> None:
    stored, listed = (unicodedata.normalize(form, "\u00dcbung/\u00e9.png") for form in forms)
    (tmp_path / "l.csv").write_text(f"{listed},4\nb.png,0\n")
    assert read_labels(tmp_path / "l.csv", [stored, "b.png"]).values == [4, 0]


def test_names_without_a_suffix_are_told_by_their_content_and_others_are_counted(tmp_path: Path) -> None:
    put(tmp_path / "a3f0c9", 1)
    put(tmp_path / "b.JFIF", 2)
    (tmp_path / "notes").write_text("words")
    for name in ("1.mov", "2.mov", "3.nef"):
        (tmp_path / name).write_bytes(bytes(20))
    source = open_path(tmp_path, "train")
    assert source.names == ["a3f0c9", "b.JFIF"]
    assert source.messages == ("files that are not read as images: 2 .mov, 1 .nef, 1 without suffix",)
    for kind, make in MAKERS.items():
        packed = make(tmp_path / f"x.{kind}", {p.name: p.read_bytes() for p in sorted(tmp_path.iterdir())})
        assert open_path(packed, "train").names[:2] == ["a3f0c9", "b.JFIF"]
        assert open_path(packed, "train").messages == source.messages
        packed.unlink()


# -- what lies next to the images ----------------------------------------------------------------

CLUTTER = {
    ".DS_Store": b"x", "Thumbs.db": b"x", "cat/desktop.ini": b"x", "__MACOSX/cat/._1.png": b"x", ".git/1.png": b"x",
    "@eaDir/1.png": b"x", "cat/.hidden.png": b"x",
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_files_of_the_system_are_passed_over_in_silence(tmp_path: Path, form: str) -> None:
    members = {"cat/1.PNG": grey(1), "dog/2.jPg": grey(2), **CLUTTER}
    source = open_path(FORMS[form](tmp_path / f"x.{form}", members), "train")
    assert sorted(source.names) == ["cat/1.PNG", "dog/2.jPg"]
    assert source.labels is not None
    assert source.labels.classes == ("cat", "dog")
    assert (source.messages, source.warnings) == ((), ())


@pytest.mark.parametrize("form", FORMS)
def test_content_decides_where_the_suffix_says_nothing(tmp_path: Path, form: str) -> None:
    members = {"a.jpg_large": grey(1), "b.png~": grey(2), "c.2024": grey(3), "d.txt": grey(4),
               "e.DNG": b"II*\0" + bytes(40), "f.bin": bytes(40)}  # fmt: skip
    source = open_path(FORMS[form](tmp_path / f"x.{form}", members), "train")
    assert sorted(source.names) == ["a.jpg_large", "b.png~", "c.2024"]
    assert source.messages == ("files that are not read as images: 1 .bin, 1 .dng, 1 .txt",)


@pytest.mark.parametrize("form", FORMS)
def test_arrays_are_images_where_there_are_no_others(tmp_path: Path, form: str) -> None:
    array = io.BytesIO()
    np.save(array, np.zeros((4, 4, 5), np.uint8))
    alone = open_path(FORMS[form](tmp_path / f"x.{form}", {"1.npy": array.getvalue()}), "train")
    assert list(alone.names) == ["1.npy"]
    both = open_path(FORMS[form](tmp_path / f"y.{form}", {"1.npy": array.getvalue(), "1.png": grey(1)}), "train")
    assert list(both.names) == ["1.png"]
    assert both.messages == ("files that are not read as images: 1 .npy",)


@pytest.mark.parametrize("form", FORMS)
def test_class_files_of_webdataset_are_labels(tmp_path: Path, form: str) -> None:
    members = {"img0.png": grey(1), "img0.cls": b"4", "img1.png": grey(2), "img1.cls": b"0\n"}
    source = open_path(FORMS[form](tmp_path / f"x.{form}", members), "train")
    assert source.labels is not None
    assert source.labels.values == [4, 0]
    assert source.labels_message.startswith("5 classes from .cls files")
    del members["img1.cls"]
    assert open_path(FORMS[form](tmp_path / f"y.{form}", members), "train").labels is None


def test_a_folder_of_links_says_so(tmp_path: Path) -> None:
    put(tmp_path / "real" / "1.png", 1)
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "cat").symlink_to(tmp_path / "real")
    with pytest.raises(GsdError) as caught:
        open_path(tmp_path / "source", "train")
    assert caught.value.hint == "it holds links to folders, which are not followed: cat"
