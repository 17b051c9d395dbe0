from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from gsd_cli.base.errors import GsdError
from gsd_cli.data.label_names import MissingLabels
from gsd_cli.data.labels import read_labels
from gsd_cli.data.sources.layout import read_layout

NAMES = ["a/1.jpg", "a/2.jpg", "b/3.jpg"]


def read(tmp_path: Path, text: str, suffix: str = "csv", names: list[str] = NAMES):
    path = tmp_path / f"labels.{suffix}"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    return read_labels(path, names)


@pytest.mark.parametrize("names", [[], ["a.png"], ["a/1.png", "a/2.png"], ["a/1.png", "b/2.png", "3.png"]])
def test_folders_name_classes_only_when_all_do(names: list[str]) -> None:
    assert read_layout(names, "train", Path("source")).labels is None


def test_folders_name_classes() -> None:
    labels = read_layout(["b/x/1.png", "a/1.png", "./b/2.png"], "train", Path("source")).labels
    assert labels is not None
    assert (labels.values, labels.classes) == ([1, 0, 1], ("a", "b"))


@pytest.mark.parametrize(
    "text",
    [
        "a/1.jpg,4\na/2.jpg,0\nb/3.jpg,4\n",
        "name,label\na/1.jpg,4\na/2.jpg,0\nb/3.jpg,4\n",
        "\ufeffimage_id,class\r\n./a/1.jpg,4\r\na\\2.jpg,0\r\n\r\nb/3.jpg , 4\r\n",
        "b/3.jpg,4\n3.jpg,9\nother.jpg,7\na/2.jpg,0\na/1.jpg,4",
        "1.jpg,4\n2.jpg,0\n3.jpg,4\n",
        '"a/1.jpg","4"\n"a/2.jpg","0"\n"b/3.jpg","4"\n',
    ],
    ids=["plain", "header", "windows", "any order, more", "file names", "quoted"],
)
def test_a_csv_of_numbers(tmp_path: Path, text: str) -> None:
    labels = read(tmp_path, text)
    assert (labels.values, labels.classes, labels.attributes) == ([4, 0, 4], (), ())


def test_a_csv_of_names(tmp_path: Path) -> None:
    labels = read(tmp_path, 'file,kind\n1.jpg,"dog, small"\n2.jpg,cat\n3.jpg,cat\n')
    assert (labels.values, labels.classes) == ([1, 0, 0], ("cat", "dog, small"))


CELEBA = """202599
5_o_Clock_Shadow Male Young
000001.jpg -1  1  1
000002.jpg  1 -1  1
000003.jpg -1 -1 -1
"""


def test_celeba_attributes(tmp_path: Path) -> None:
    names = ["000003.jpg", "000001.jpg"]
    labels = read(tmp_path, CELEBA, "txt", names)
    assert labels.attributes == ("5_o_Clock_Shadow", "Male", "Young")
    assert labels.values == [(0, 0, 0), (0, 1, 1)]
    as_csv = "image_id,5_o_Clock_Shadow,Male,Young\n000001.jpg,-1,1,1\n000003.jpg,-1,-1,-1\n"
    assert read(tmp_path, as_csv, "csv", names) == labels
    zeros = "image_id,5_o_Clock_Shadow,Male,Young\n000001.jpg,0,1,1\n000003.jpg,0,0,0\n"
    assert read(tmp_path, zeros, "csv", names) == labels


def test_forty_attributes_are_all_kept(tmp_path: Path) -> None:
    header = " ".join(f"A{i}" for i in range(40))
    row = " ".join("1" if i % 3 else "-1" for i in range(40))
    labels = read(tmp_path, f"1\n{header}\nx.jpg {row}\n", "txt", ["x.jpg"])
    assert len(labels.attributes) == 40
    assert labels.values == [tuple(int(i % 3 > 0) for i in range(40))]


@pytest.mark.parametrize(
    ("given", "expected"),
    [([3, 0, 1], [3, 0, 1]), ([[0, 1], [1, 1], [0, 0]], [(0, 1), (1, 1), (0, 0)]), ([[0.0, 1.0]] * 3, [(0, 1)] * 3)],
)
def test_a_dataset_json_of_edm(tmp_path: Path, given: list, expected: list) -> None:
    text = json.dumps({"labels": [list(pair) for pair in zip(NAMES, given, strict=True)]})
    assert read(tmp_path, text, "json").values == expected


@pytest.mark.parametrize(
    ("suffix", "text", "named"),
    [
        ("csv", "", "a/1.jpg"),
        ("csv", "1.jpg,4\n2.jpg,0\n", "no label for b/3.jpg"),
        ("csv", "1.jpg,4\n2.jpg,0\n3.jpg,1\n1.jpg,5\n", "1.jpg has two labels"),
        ("csv", "1.jpg,4\n2.jpg\n3.jpg,1\n", "row 2"),
        ("csv", "1.jpg,4\n2.jpg,\n3.jpg,1\n", "row 2: the label of a/2.jpg is empty"),
        ("csv", "name,label\n1.jpg,4\n2.jpg,\n3.jpg,\n", "row 3: the label of a/2.jpg is empty (1 more"),
        ("csv", "1.jpg,4\n,5\n2.jpg,0\n3.jpg,1\n", "row 2: ',5' names no image"),
        ("json", '{"labels": [["1.jpg", 4], ["2.jpg", null], ["3.jpg", 0]]}', "the label of a/2.jpg is empty"),
        ("csv", "1.jpg,4\n1.JPG,5\n2.jpg,0\n", "no label for b/3.jpg"),
        ("csv", "1.jpg,4\x00\n", "labels.csv"),
        ("csv", "name,x,y\n1.jpg,1,1\n2.jpg,2,1\n", "2.jpg"),
        ("csv", "name,x,y\n1.jpg,1,1\n2.jpg,1\n", "2.jpg"),
        ("txt", "3\nA B\n1.jpg 1 1\n2.jpg 1\n", "2.jpg"),
        ("txt", "3\nA B\n1.jpg 1 yes\n", "1.jpg"),
        ("json", "{", "dataset.json"),
        ("json", "[]", "dataset.json"),
        ("json", "[" * 100_000, "dataset.json"),
        ("json", '{"labels": null}', "no labels"),
        ("json", '{"labels": [[null, 0]]}', "dataset.json"),
        ("json", '{"labels": [[1, 0], ["a/1.jpg", 0]]}', "dataset.json"),
        ("json", '{"labels": [["a/1.jpg", 0]]}', "a/2.jpg, b/3.jpg"),
        ("json", '{"labels": [["a/1.jpg", 0], ["a/2.jpg", -1], ["b/3.jpg", 0]]}', "a/2.jpg is -1"),
        ("json", '{"labels": [["a/1.jpg", 0], ["a/2.jpg", 1.5], ["b/3.jpg", 0]]}', "a/2.jpg is 1.5"),
        ("json", '{"labels": [["a/1.jpg", [0, 1]], ["a/2.jpg", [1]], ["b/3.jpg", [1, 0]]]}', "a/1.jpg is (0, 1)"),
        ("json", '{"labels": [["a/1.jpg", "cat"], ["a/2.jpg", 1], ["b/3.jpg", "dog"]]}', "a/1.jpg is 'cat'"),
        ("csv", "name,x,label,y\n1.jpg,1,cat,3\n", "no label for a/2.jpg"),
    ],
)
def test_bad_labels_are_named(tmp_path: Path, suffix: str, text: str, named: str) -> None:
    with pytest.raises(GsdError) as caught:
        read(tmp_path, text, suffix)
    assert caught.value.code == 3
    assert named in str(caught.value)


@pytest.mark.parametrize("name", ["missing.csv", "."])
def test_a_label_file_that_is_none(tmp_path: Path, name: str) -> None:
    with pytest.raises(GsdError, match="cannot read"):
        read_labels(tmp_path / name, NAMES)


def test_file_names_that_two_pictures_share_do_not_count(tmp_path: Path) -> None:
    with pytest.raises(GsdError, match=r"no label for a/1\.jpg, b/1\.jpg"):
        read(tmp_path, "1.jpg,4\n", names=["a/1.jpg", "b/1.jpg"])


TABLES = {
    "semicolons": "name;kind\n1.jpg;dog\n2.jpg;cat\n3.jpg;cat\n",
    "tabs": "1.jpg\tdog\n2.jpg\tcat\n3.jpg\tcat\n",
    "white space": "a/1.jpg dog\na/2.jpg  cat\nb/3.jpg cat\n",
    "labels first": "dog,1.jpg\ncat,2.jpg\ncat,3.jpg\n",
    "labels first, header": "kind,name\ndog,1.jpg\ncat,2.jpg\ncat,3.jpg\n",
    "more columns": "id,width,label,name\n7,40,dog,1.jpg\n8,40,cat,2.jpg\n9,41,cat,3.jpg\n",
    "names without suffix": "id,breed\n1,dog\n2,cat\n3,cat\n",
    "paths without suffix": "a/1,dog\na/2,cat\nb/3,cat\n",
    "old Mac lines": "1.jpg,dog\r2.jpg,cat\r3.jpg,cat\r",
    "files that are not there": "1.jpg,dog\n2.jpg,cat\n3.jpg,cat\n4.jpg,horse\n",
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_as_people_have_them(tmp_path: Path, name: str) -> None:
    labels = read(tmp_path, TABLES[name])
    assert (labels.values, labels.classes) == ([1, 0, 0], ("cat", "dog"))


def test_a_table_saved_by_a_spreadsheet_in_utf16(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_bytes("name\tkind\r\n1.jpg\tdög\r\n2.jpg\tcat\r\n3.jpg\tcat\r\n".encode("utf-16"))
    assert read_labels(tmp_path / "l.csv", NAMES).classes == ("cat", "d\u00f6g")


ENCODED = {
    "UTF-8": ("utf-8", []),
    "UTF-8 with a mark": ("utf-8-sig", []),
    "UTF-16": ("utf-16", []),
    "Latin-1, as Excel writes": ("cp1252", ["l.csv is not in UTF-8: read as Windows-1252"]),
}


@pytest.mark.parametrize("name", ENCODED)
def test_the_encoding_of_a_table_is_known_or_said(tmp_path: Path, name: str) -> None:
    encoding, expected = ENCODED[name]
    table = "filename,label\r\n1.jpg,bleu \u00e9\r\n2.jpg,\u20ac\r\n3.jpg,bleu \u00e9\r\n"
    (tmp_path / "l.csv").write_bytes(table.encode(encoding))
    said: list[str] = []
    assert read_labels(tmp_path / "l.csv", NAMES, said.append).classes == ("bleu \u00e9", "\u20ac")
    assert said == expected


@pytest.mark.parametrize(
    ("raw", "named"),
    [("1.jpg,caf\u00e9\n".encode("utf-16-le"), "UTF-16 without a mark"), (b"\xff\xfe1.jpg", "UTF-16, and its bytes"),
     (b"1.jpg,\x81\x8d\n", "neither UTF-8 nor Windows-1252")],
)  # fmt: skip
def test_an_encoding_that_is_none_is_named(tmp_path: Path, raw: bytes, named: str) -> None:
    (tmp_path / "l.csv").write_bytes(raw)
    with pytest.raises(GsdError, match=named) as caught:
        read_labels(tmp_path / "l.csv", NAMES)
    assert caught.value.code == 3


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252"])
def test_a_file_name_that_is_not_utf8_is_found(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "l.csv").write_bytes("caf\u00e9.png,a\nb.png,c\n".encode(encoding))
    labels = read_labels(tmp_path / "l.csv", [os.fsdecode(b"caf\xe9.png"), "b.png"])
    assert labels.classes == ("a", "c")


def test_half_a_character_in_a_name_is_no_crash(tmp_path: Path) -> None:
    labels = read(tmp_path, r'{"\ud800.jpg": 3, "1.jpg": 4, "2.jpg": 0, "3.jpg": 1}', "json")
    assert labels.values == [4, 0, 1]


def test_names_in_another_case_are_found_where_they_are_unique(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("filename,label\nimg_1.JPG,4\nIMG_2.jpg,0\nimg_3,1\n")
    said: list[str] = []
    labels = read_labels(tmp_path / "l.csv", ["x/IMG_1.JPG", "x/IMG_2.jpg", "x/IMG_3.png"], said.append)
    assert labels.values == [4, 0, 1]
    assert said == ["l.csv writes 2 names in another case (x/IMG_1.JPG): taken for the same"]
    with pytest.raises(MissingLabels) as caught:
        read_labels(tmp_path / "l.csv", ["img_1.JPG", "img_1.jpg", "IMG_2.jpg"])
    assert caught.value.names == ["img_1.jpg"]


def test_images_without_a_label_are_all_named(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("1.jpg,4\n")
    with pytest.raises(MissingLabels) as caught:
        read_labels(tmp_path / "l.csv", NAMES)
    assert (caught.value.names, caught.value.hint) == (NAMES[1:], "--skip-bad leaves out images without a label")
    with pytest.raises(MissingLabels) as caught:
        read_labels(tmp_path / "l.csv", ["x.jpg", "y.jpg"])
    assert caught.value.hint == "name images by their path in the source, or by file name"


JSONS = {
    "EDM, names": '{"labels": [["a/1.jpg", "dog"], ["a/2.jpg", "cat"], ["b/3.jpg", "cat"]]}',
    "a mapping": '{"a/1.jpg": "dog", "2.jpg": "cat", "3": "cat"}',
    "EDM, a mapping": '{"labels": {"a/1.jpg": "dog", "a/2.jpg": "cat", "b/3.jpg": "cat"}}',
    "objects": '[{"file_name": "1.jpg", "label": "dog"}, {"file_name": "2.jpg", "label": "cat"}, '
    '{"file_name": "3.jpg", "label": "cat"}]',
    "lines of objects": '{"file_name": "1.jpg", "label": "dog"}\n{"file_name": "2.jpg", "label": "cat"}\n\n'
    '{"file_name": "3.jpg", "label": "cat", "text": "x"}\n',
}


@pytest.mark.parametrize("name", JSONS)
def test_json_of_several_shapes(tmp_path: Path, name: str) -> None:
    labels = read(tmp_path, JSONS[name], "jsonl" if "lines" in name else "json")
    assert (labels.values, labels.classes) == ([1, 0, 0], ("cat", "dog"))


def test_classes_may_have_any_name(tmp_path: Path) -> None:
    labels = read(tmp_path, '1.jpg,"a/b; c"\n2.jpg,\u732b\n3.jpg,"two\nlines"\n')
    assert labels.classes == ("a/b; c", "two\nlines", "\u732b")
