from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from gsd_cli.errors import GsdError
from gsd_cli.paths import (
    atomic_file,
    atomic_folder,
    cache_dir,
    read_json,
    require_writable,
    storage_errors,
    sweep,
    write_json,
)

not_as_root = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_atomic_file_comes_into_being_whole(tmp_path: Path) -> None:
    target = tmp_path / "new" / "a.png"
    with atomic_file(target) as temporary:
        assert temporary.parent == target.parent
        assert temporary.suffix == ".png"
        temporary.write_text("content")
        assert not target.exists()
    assert target.read_text() == "content"
    assert names(target.parent) == ["a.png"]
    assert stat.S_IMODE(target.stat().st_mode) == 0o644


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, GsdError("no")])
@pytest.mark.parametrize("there", [True, False])
def test_atomic_file_keeps_the_old_content_on_failure(tmp_path: Path, error: BaseException, there: bool) -> None:
    target = tmp_path / "a.txt"
    if there:
        target.write_text("old")

    def write_half() -> None:
        with atomic_file(target) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error if isinstance(error, type) else type(error)):
        write_half()
    assert names(tmp_path) == (["a.txt"] if there else [])
    assert not there or target.read_text() == "old"


def test_atomic_folder_replaces_all_of_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "model"
    for content in ("one", "two"):
        with atomic_folder(target) as temporary:
            (temporary / content).mkdir()
            (temporary / content / "file").write_text(content)
        assert names(target) == [content]
        assert (target / content / "file").read_text() == content
    assert names(tmp_path) == ["model"]
    assert stat.S_IMODE(target.stat().st_mode) == 0o755


def test_atomic_folder_keeps_the_old_one_on_failure(tmp_path: Path) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (target / "old").write_text("old")

    def write_half() -> None:
        with atomic_folder(target) as temporary:
            (temporary / "new").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert names(tmp_path) == ["model"]
    assert names(target) == ["old"]


def test_atomic_folder_keeps_the_old_one_when_the_last_rename_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (target / "old").write_text("old")
    rename = os.rename
    monkeypatch.setattr("gsd_cli.paths._exchange", lambda a, b: False)  # a system without

    def fail_into_place(source: str | Path, destination: str | Path) -> None:
        if Path(destination) == target and Path(source).name != "old":
            raise OSError(errno.ENOSPC, "no space")
        rename(source, destination)

    monkeypatch.setattr(os, "rename", fail_into_place)

    def replace() -> None:
        with atomic_folder(target) as temporary:
            (temporary / "new").write_text("new")

    with pytest.raises(GsdError) as caught:
        replace()
    assert caught.value.code == 8
    assert (target / "old").read_text() == "old"


@pytest.mark.parametrize("writer", [atomic_file, atomic_folder])
def test_a_file_in_the_way_is_a_storage_error(tmp_path: Path, writer) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(GsdError) as caught, writer(tmp_path / "file" / "deeper"):
        pass
    assert caught.value.code == 8
    assert names(tmp_path) == ["file"]


def test_a_folder_in_the_way_of_a_file_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "a.png").mkdir()
    with pytest.raises(GsdError) as caught, atomic_file(tmp_path / "a.png") as temporary:
        temporary.write_text("x")
    assert caught.value.code == 8
    assert names(tmp_path) == ["a.png"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS])
def test_disk_trouble_becomes_exit_8(tmp_path: Path, number: int) -> None:
    with pytest.raises(GsdError) as caught, storage_errors(tmp_path / "not" / "yet"):
        raise OSError(number, os.strerror(number))
    assert caught.value.code == 8
    assert str(tmp_path / "not" / "yet") in caught.value.message


def test_other_errors_pass_through(tmp_path: Path) -> None:
    with pytest.raises(BrokenPipeError), storage_errors(tmp_path):
        raise BrokenPipeError


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    def fill() -> None:
        with atomic_file(tmp_path / "a") as temporary:
            temporary.write_text("half")
            raise OSError(errno.ENOSPC, "no space")

    with pytest.raises(GsdError, match="no room"):
        fill()
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("target", "folder"), [("new", True), ("a/b/c", True), ("new.png", False), ("folder", True), ("file", False)]
)
def test_require_writable_accepts(tmp_path: Path, target: str, folder: bool) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    require_writable(tmp_path / target, folder=folder)
    assert names(tmp_path) == ["file", "folder"]  # asked, nothing made


@pytest.mark.parametrize(
    ("target", "folder"), [("file", True), ("folder", False), ("file/x", True), ("file/x", False), ("file/x/y", True)]
)
def test_require_writable_refuses(tmp_path: Path, target: str, folder: bool) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    with pytest.raises(GsdError) as caught:
        require_writable(tmp_path / target, folder=folder)
    assert caught.value.code == 8


@pytest.mark.parametrize("target", ["", "new", "a/b"])
def test_require_writable_asks_the_nearest_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    asked = []

    def refuse(path: Path, mode: int) -> bool:
        asked.append((Path(path), mode & os.W_OK))
        return False

    monkeypatch.setattr(os, "access", refuse)
    with pytest.raises(GsdError, match="not writable") as caught:
        require_writable(tmp_path / target, folder=True)
    assert caught.value.code == 8
    assert asked == [(tmp_path, os.W_OK)]


@not_as_root
def test_require_writable_sees_a_read_only_folder(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(GsdError):
        require_writable(tmp_path / "locked" / "new", folder=True)


def test_sweep_takes_leftovers_only(tmp_path: Path) -> None:
    (tmp_path / ".tmp-a").mkdir()
    (tmp_path / ".tmp-a" / "x").write_text("x")
    (tmp_path / ".tmp-b").write_text("x")
    (tmp_path / "kept.tmp-").write_text("x")
    sweep(tmp_path)
    assert names(tmp_path) == ["kept.tmp-"]
    sweep(tmp_path / "nowhere")


def test_json_round_trip(tmp_path: Path) -> None:
    value = {"b": 1, "a": [None, "é"]}
    write_json(tmp_path / "x.json", value)
    assert read_json(tmp_path / "x.json") == value
    assert list(read_json(tmp_path / "x.json")) == ["b", "a"]


@pytest.mark.parametrize("content", [None, b"{", b"", b"\xff"])
def test_unreadable_json_is_an_input_error(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(GsdError) as caught:
        read_json(tmp_path / "x.json")
    assert caught.value.code == 3


def test_cache_dir_precedence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GSD_CACHE_DIR", str(tmp_path / "env"))
    assert cache_dir(tmp_path / "flag") == tmp_path / "flag"
    assert cache_dir() == tmp_path / "env"
    monkeypatch.delenv("GSD_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir().name == "gsd"
