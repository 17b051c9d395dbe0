"""Captions in the forms in which people have them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gsd_cli.base.errors import GsdError
from gsd_cli.data.captions import read_captions
from gsd_cli.data.label_names import MissingLabels

NAMES = ["in/a.png", "in/b.png", "c.jpg"]
TEXTS = ["a red cat, asleep", "two dogs", "été"]


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


COCO = {
    "images": [{"id": k, "file_name": name} for k, name in enumerate(NAMES)],
    "annotations": [{"image_id": k, "caption": text} for k, text in enumerate(TEXTS)],
}
OBJECTS = [{"file_name": name, "text": text} for name, text in zip(NAMES, TEXTS, strict=True)]
FORMS = {
    "quoted.csv": 'in/a.png,"a red cat, asleep"\nin/b.png,two dogs\nc.jpg,été\n',
    "bare.csv": "in/a.png,a red cat, asleep\nin/b.png,two dogs\nc.jpg,été\n",
    "header.csv": 'name,caption\na.png,"a red cat, asleep"\nb.png,two dogs\nc,été\n',
    "wide.csv": 'id,split,text,file\n1,x,"a red cat, asleep",a.png\n2,x,two dogs,b.png\n3,y,été,c.jpg\n',
    "tabs.tsv": "in/a.png\ta red cat, asleep\nin/b.png\ttwo dogs\nc.jpg\tété\n",
    "windows.csv": "in/a.png;a red cat, asleep\nin/b.png;two dogs\nc.jpg;été\n".encode("cp1252"),
    "spaces.csv": "in/a.png;  a red  cat, asleep\nin/b.png;two dogs \nc.jpg;été\nother.png;a bird\n",
    "metadata.jsonl": "\n".join(json.dumps(one) for one in OBJECTS),
    "objects.json": json.dumps(OBJECTS),
    "pairs.json": json.dumps([*map(list, zip(NAMES, TEXTS, strict=True))]),
    "by-name.json": json.dumps(dict(zip(NAMES, TEXTS, strict=True))),
    "dataset.json": json.dumps({"labels": None, "captions": [*zip(NAMES, TEXTS, strict=True)]}),
    "coco.json": json.dumps(COCO),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_same(tmp_path: Path, name: str) -> None:
    assert read_captions(write(tmp_path, name, FORMS[name]), NAMES) == TEXTS


def test_a_folder_of_text_files(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name, text in zip(NAMES, TEXTS, strict=True):
        write(tmp_path, f"{name.rpartition('.')[0]}.txt", f"{text}\n")
    assert read_captions(tmp_path, NAMES) == TEXTS


def test_the_first_of_several_captions_is_taken_and_said(tmp_path: Path) -> None:
    lines: list[str] = []
    file = write(tmp_path, "a.csv", "a.png;a cat\na.png;a red cat\na.png;a cat\n")
    assert read_captions(file, ["a.png"], lines.append) == ["a cat"]
    assert lines == ["a.csv has 1 more caption of images that have one: the first is taken"]


def test_images_without_a_caption_are_named(tmp_path: Path) -> None:
    with pytest.raises(MissingLabels, match=r"no caption for b\.png") as raised:
        read_captions(write(tmp_path, "a.csv", "a.png,a cat\n"), ["a.png", "b.png"])
    assert raised.value.names == ["b.png"]
    with pytest.raises(MissingLabels, match=r"entry 2: the caption of b\.png is empty"):
        read_captions(write(tmp_path, "b.csv", "a.png;a cat\nb.png; \n"), ["a.png", "b.png"])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "a.png\nb.png\n"),
        ("a.csv", "a.png,a cat\nb.png\n"),
        ("a.json", "[1, 2]"),
        ("a.json", '{"a.png": 5}'),
        ("a.json", '{"images": [{}], "annotations": []}'),
        ("a.jsonl", '{"file_name": "a.png"}'),
        ("a.csv", b"a\0b"),
        ("a.json", "[" * 100_000),
        ("none.csv", None),
    ],
)
def test_other_files_are_an_error_with_the_forms(tmp_path: Path, name: str, content: str | bytes | None) -> None:
    file = tmp_path / name if content is None else write(tmp_path, name, content)
    with pytest.raises(GsdError, match=name) as raised:
        read_captions(file, ["a.png", "b.png"])
    assert raised.value.code == 3 and "metadata.jsonl" in (raised.value.hint or "")
