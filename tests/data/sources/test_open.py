from __future__ import annotations

import os
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from gsd_cli.base.errors import GsdError
from gsd_cli.data.decode import decode
from gsd_cli.data.sources import admission as listing
from gsd_cli.data.sources.open import open_source
from gsd_cli.data.sources.source import Source
from tests.support.images import MAKERS, NOISE, encoded, grey, make_tar, make_zip, put


def opened(path: Path | str, cache: Path = Path("unused")) -> Source:
    return open_source(str(path), "train", cache, offline=True)


def contents(source: Source) -> list[tuple[int, int | None]]:
    labels = source.labels.values if source.labels else [None] * len(source.names)
    pixels = [decode(payload).getpixel((0, 0)) for payload in source.payloads(range(len(source.names)))]
    return list(zip(pixels, labels, strict=True))


# -- folders ------------------------------------------------------------------------------------


def test_a_folder_is_read_in_order_with_labels_from_its_subfolders(tmp_path: Path) -> None:
    put(tmp_path / "dog" / "deep" / "2.PNG", 20)
    put(tmp_path / "cat" / "1.png", 10)
    put(tmp_path / "cat" / "3.png", 30)
    (tmp_path / "cat" / "notes.txt").write_text("no picture")
    source = opened(tmp_path)
    assert list(source.names) == ["cat/1.png", "cat/3.png", "dog/deep/2.PNG"]
    assert source.labels is not None
    assert source.labels.classes == ("cat", "dog")
    assert contents(source) == [(10, 0), (30, 0), (20, 1)]


def test_payloads_begin_where_asked(tmp_path: Path) -> None:
    members = {f"{i}.png": grey(i) for i in range(5)}
    for kind, make in MAKERS.items():
        source = opened(make(tmp_path / f"a.{kind}", members))
        for start in range(6):
            assert [decode(p).getpixel((0, 0)) for p in source.payloads(range(start, 5))] == list(range(start, 5))


def test_identity_tells_changes_apart(tmp_path: Path) -> None:
    def identity() -> str:
        return opened(tmp_path).identity

    put(tmp_path / "a.png", 1)
    put(tmp_path / "b.png", 2)
    first = identity()
    assert identity() == first
    os.utime(tmp_path / "a.png", ns=(0, 1))
    second = identity()
    put(tmp_path / "c.png", 3)
    third = identity()
    (tmp_path / "c.png").rename(tmp_path / "d.png")
    assert len({first, second, third, identity()}) == 4


@pytest.mark.parametrize("names", [["a.png", "b.png"], ["one/a.png", "one/b.png"], ["x/a.png", "y/b.png", "c.png"]])
def test_a_folder_without_several_classes_has_no_labels(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        put(tmp_path / name, 1)
    source = opened(tmp_path)
    assert source.labels is None


@pytest.mark.fault(11, "links, loops and pipes in a folder")
def test_links_pipes_and_hidden_files_are_not_read_and_named(tmp_path: Path) -> None:
    put(tmp_path / "a.png", 1)
    put(tmp_path / ".hidden.png", 2)
    put(tmp_path / "sub" / "._a.png", 3)
    (tmp_path / "sub" / "up").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "self.png").symlink_to(tmp_path / "self.png")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    source = opened(tmp_path)
    assert contents(source) == [(1, None)]
    assert sorted(source.refused) == [
        ("gone.png", "a link to nothing"), ("pipe.png", "not a file"), ("self.png", "a link to nothing"),
    ]  # fmt: skip
    assert source.warnings == (f"{tmp_path}: links to folders are not followed: sub/up",)


def test_hidden_folders_are_left_out(tmp_path: Path) -> None:
    put(tmp_path / "a.png", 1)
    put(tmp_path / ".thumbnails" / "a.png", 2)
    assert list(opened(tmp_path).names) == ["a.png"]


def test_a_bad_picture_is_met_when_it_is_opened(tmp_path: Path) -> None:
    put(tmp_path / "a.png", 1)
    (tmp_path / "b.png").write_text("no picture")
    good, bad = opened(tmp_path).payloads([0, 1])
    decode(good)
    with pytest.raises((ValueError, OSError)):
        decode(bad)


@pytest.mark.fault(11, "odd names")
def test_odd_names_are_names(tmp_path: Path) -> None:
    names = ["with space.png", "new\nline.png", "ümläut.png", "%s{0}.png", "[red]x[/].png", "-n.png"]
    for i, name in enumerate(names):
        put(tmp_path / name, i)
    (tmp_path / os.fsdecode(b"latin-\xe9.png")).write_bytes(grey(9))
    source = opened(tmp_path)
    assert {n.encode("utf-8", "surrogateescape") for n in source.names} == {
        *(n.encode() for n in names),
        b"latin-\xe9.png",
    }
    assert len(contents(source)) == 7


@pytest.mark.fault(11, "archives inside")
def test_archives_inside_are_named_not_opened(tmp_path: Path) -> None:
    put(tmp_path / "a.png", 1)
    make_zip(tmp_path / "more.zip", {"b.png": grey(2)})
    source = opened(tmp_path)
    assert len(source.names) == 1
    assert source.warnings == (f"{tmp_path}: archives inside are not opened: more.zip",)
    make_zip(tmp_path / "outer.zip", {"inner.zip": b"PK", "inner2.tar.gz": b""})
    with pytest.raises(GsdError) as caught:
        opened(tmp_path / "outer.zip")
    assert "inner.zip" in str(caught.value.hint)


def test_a_dataset_json_of_edm_gives_the_labels(tmp_path: Path) -> None:
    put(tmp_path / "x" / "a.png", 1)
    put(tmp_path / "y" / "b.png", 2)
    (tmp_path / "dataset.json").write_text('{"labels": [["y/b.png", 7], ["x/a.png", 3]]}')
    assert contents(opened(tmp_path)) == [(1, 3), (2, 7)]
    (tmp_path / "dataset.json").write_text('{"images": []}')  # COCO's and others' files of that name
    source = opened(tmp_path)
    assert contents(source) == [(1, 0), (2, 1)]
    assert "dataset.json is not used" in source.warnings[0]


# -- archives -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MAKERS)
def test_an_archive_is_read_like_a_folder(tmp_path: Path, kind: str) -> None:
    members = {"b/2.png": grey(20), "a/1.png": grey(10), "a/readme.md": b"x", "b/3.JPG": grey(30)}
    source = opened(MAKERS[kind](tmp_path / f"pictures.{kind}", members))
    assert source.name == "pictures"
    assert source.labels is not None
    assert source.labels.classes == ("a", "b")
    # a compressed tar can only be read forwards
    expected = [(10, 0), (20, 1), (30, 1)] if kind == "zip" else [(20, 1), (10, 0), (30, 1)]
    assert contents(source) == expected
    assert contents(source) == expected  # it can be read again


@pytest.mark.parametrize("kind", MAKERS)
def test_a_leading_dot_is_no_folder(tmp_path: Path, kind: str) -> None:
    # tar -c . writes every name so
    members = {"./a/1.png": grey(10), "./b/2.png": grey(20)}
    source = opened(MAKERS[kind](tmp_path / f"a.{kind}", members))
    assert contents(source) == [(10, 0), (20, 1)]


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.fault(12, "paths that lead out")
def test_paths_that_lead_out_are_refused_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    inside = tmp_path / "deep" / "inside"
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    absolute = str(tmp_path / "absolute.png")
    members = {"../x.png": grey(1), absolute: grey(2), "C:/y.png": grey(4), "ok.png": grey(3)}
    source = opened(MAKERS[kind](inside / f"a.{kind}", members))
    assert contents(source) == [(3, None)]
    cause = "its path leads out of the archive"
    assert sorted(source.refused) == sorted([("../x.png", cause), (absolute, cause), ("C:/y.png", cause)])
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [inside / f"a.{kind}"]


@pytest.mark.fault(12, "links in a tar")
def test_links_in_a_tar_are_refused(tmp_path: Path) -> None:
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
    source = opened(path)
    assert contents(source) == [(1, None)]
    assert source.refused == (("soft.png", "a link"), ("hard.png", "a link"), ("pipe.png", "not a file"))


@pytest.mark.fault(12, "links in a zip")
def test_links_in_a_zip_are_refused(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", {"real.png": grey(1)})
    with zipfile.ZipFile(path, "a") as file:
        info = zipfile.ZipInfo("soft.png")
        info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        file.writestr(info, "/etc/passwd")
    source = opened(path)
    assert contents(source) == [(1, None)]
    assert source.refused == (("soft.png", "a link"),)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.fault(12, "duplicates")
def test_a_second_member_of_a_name_is_refused(tmp_path: Path, kind: str) -> None:
    path = MAKERS[kind](tmp_path / f"a.{kind}", {"a.png": grey(1), "b.png": grey(2)})
    if kind == "zip":
        with zipfile.ZipFile(path, "a") as file:
            file.writestr("a.png", grey(3))
    else:
        make_tar(path, {"a.png": grey(3)}, "a")
    source = opened(path)
    assert list(source.names) == ["a.png", "b.png"]
    assert source.refused == (("a.png", "a second member of that name"),)
    if kind == "tar":
        assert contents(source) == [(1, None), (2, None)]


@pytest.mark.parametrize("kind", MAKERS)
def test_hidden_members_are_left_out(tmp_path: Path, kind: str) -> None:
    # what macOS puts next to every image it packs
    members = {"a.png": grey(1), "__MACOSX/._a.png": b"\0\5\x16\7 no picture", ".b.png": b"x"}
    source = opened(MAKERS[kind](tmp_path / f"a.{kind}", members))
    assert contents(source) == [(1, None)]
    assert source.refused == ()


def test_a_member_that_claims_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "MAX_MEMBER_BYTES", 10_000)
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.png", b"\0" * 10_001)
    source = opened(path)
    assert list(source.names) == []
    assert source.refused == (("a.png", "claims 10,001 bytes, a decompression bomb"),)


def test_a_member_of_a_huge_ratio_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "RATIO_MATTERS", 10_000)
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("small.bmp", b"\0" * 9_000)  # its ratio is huge, but who cares
        file.writestr("large.bmp", b"\0" * 100_000)
    assert [name for name, _ in opened(path).refused] == ["large.bmp"]


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
    encrypt_last(path)


def encrypt_last(path: Path) -> None:
    """Mark the last member as encrypted."""
    raw = bytearray(path.read_bytes())
    raw[raw.rindex(b"PK\3\4") + 6] |= 1  # general purpose flag of the local header, then of the directory
    raw[raw.rindex(b"PK\1\2") + 8] |= 1
    path.write_bytes(raw)


@pytest.mark.parametrize("damage", [damaged_member, damaged_deflate, encrypted])
@pytest.mark.fault(12, "damaged and encrypted members")
def test_a_damaged_member_is_a_bad_picture(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    damage(tmp_path / "a.zip")
    (payload,) = opened(tmp_path / "a.zip").payloads([0])
    with pytest.raises((ValueError, OSError)):
        decode(payload)


@pytest.mark.fault(12, "an encrypted dataset.json")
def test_an_encrypted_index_is_an_input_error(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", {"a.png": grey(1)})
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("dataset.json", "{}")
    encrypt_last(path)
    with pytest.raises(GsdError, match="encrypted") as caught:
        opened(path)
    assert caught.value.code == 3


@pytest.mark.fault(12, "a member without a name")
def test_a_member_without_a_name_is_passed_over(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", {"a.png": grey(1), "b": b""})
    raw = bytearray(path.read_bytes())
    entry = raw.rindex(b"PK\1\2")
    raw[entry + 28], raw[entry + 30] = 0, 1  # the byte of the name is one of the extra field
    path.write_bytes(raw)
    assert opened(path).names == ["a.png"]


def test_an_archive_cut_short_is_an_input_error(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "a.tar.gz", {f"{i}.png": encoded(NOISE) for i in range(3)}, "w:gz")
    path.write_bytes(path.read_bytes()[:-4000])
    with pytest.raises(GsdError) as caught:
        opened(path)
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
