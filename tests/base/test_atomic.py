"""Files and folders come into being whole or not at all."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from gsd_cli.base.atomic import PREFIX, atomic_file, atomic_files, atomic_folder, require_writable, sweep, write_json
from gsd_cli.base.errors import GsdError
from gsd_cli.base.storage import read_json

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
    monkeypatch.setattr("gsd_cli.base.atomic._exchange", lambda a, b: False)  # a system without

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


def test_of_many_files_those_that_were_written_stay(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    with suppress(KeyboardInterrupt), atomic_files(folder) as write:
        assert write("a.txt", b"whole") == folder / "a.txt"
        raise KeyboardInterrupt
    assert [path.name for path in folder.iterdir()] == ["a.txt"]
    assert (folder / "a.txt").read_bytes() == b"whole"
    umask = os.umask(0)
    os.umask(umask)
    assert (folder / "a.txt").stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_folder_in_the_way_of_one_of_many_files_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(GsdError) as caught, atomic_files(tmp_path) as write:
        write("a.txt", b"whole")
    assert caught.value.code == 8 and "a.txt" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


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
def test_ready_accepts(tmp_path: Path, target: str, folder: bool) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    require_writable(tmp_path / target, folder=folder)
    assert names(tmp_path) == ["file", "folder"]  # asked, nothing made


@pytest.mark.parametrize(
    ("target", "folder"), [("file", True), ("folder", False), ("file/x", True), ("file/x", False), ("file/x/y", True)]
)
def test_ready_refuses(tmp_path: Path, target: str, folder: bool) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    with pytest.raises(GsdError) as caught:
        require_writable(tmp_path / target, folder=folder)
    assert caught.value.code == 8


@pytest.mark.parametrize("target", ["", "new", "a/b"])
def test_ready_asks_the_nearest_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str) -> None:
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
def test_ready_sees_a_read_only_folder(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(GsdError):
        require_writable(tmp_path / "locked" / "new", folder=True)


def left(folder: Path, killed: bool) -> None:
    """Write into a folder until it is stopped, or be killed at it."""
    with atomic_file(folder / "a.npz") as file, atomic_folder(folder / "b") as temporary:
        file.write_text("half")
        (temporary / "x").write_text("half")
        if killed:
            os.kill(os.getpid(), signal.SIGKILL)
        (folder / "writing").touch()
        while not (folder / "go").exists():
            time.sleep(0.01)


@pytest.mark.parametrize(
    "clear", [sweep, lambda folder: require_writable(folder, folder=True)], ids=["sweep", "require"]
)
@pytest.mark.fault(1, "a process killed while it writes, next to one that is writing")
def test_what_a_killed_process_left_is_swept_and_what_is_being_written_stays(
    tmp_path: Path, clear: Callable[[Path], None]
) -> None:
    fork = multiprocessing.get_context("fork")
    killed = fork.Process(target=left, args=(tmp_path, True))
    killed.start()
    killed.join(30)
    assert killed.exitcode == -signal.SIGKILL
    leftovers = set(names(tmp_path))
    assert len(leftovers) == 2 and all(name.startswith(PREFIX) for name in leftovers)
    (tmp_path / ".tmp-mine").write_text("someone else's")
    (tmp_path / f"kept{PREFIX}").write_text("x")
    at_work = fork.Process(target=left, args=(tmp_path, False))
    at_work.start()
    end = time.monotonic() + 30
    while not (tmp_path / "writing").exists():
        assert time.monotonic() < end
        time.sleep(0.01)
    clear(tmp_path)
    assert not leftovers & set(names(tmp_path))
    (tmp_path / "go").touch()
    at_work.join(30)
    assert at_work.exitcode == 0
    assert names(tmp_path) == [".tmp-mine", "a.npz", "b", "go", f"kept{PREFIX}", "writing"]
    assert (tmp_path / "a.npz").read_text() == (tmp_path / "b" / "x").read_text() == "half"


def test_a_folder_is_swept_with_what_is_below_it(tmp_path: Path) -> None:
    (tmp_path / "run" / "samples").mkdir(parents=True)
    for place in ("", "run", "run/samples"):
        (tmp_path / place / f"{PREFIX}x").write_text("half")
    require_writable(tmp_path / "run", folder=True)
    assert names(tmp_path) == ["run"] and names(tmp_path / "run") == ["samples"]
    assert names(tmp_path / "run" / "samples") == []


@pytest.mark.parametrize("error", [OSError(errno.ENOLCK, "no locks"), None])
def test_where_there_are_no_locks_writing_works_and_nothing_is_swept(
    error: OSError | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise error or AssertionError

    if error is None:
        monkeypatch.setattr("gsd_cli.base.atomic.fcntl", None)
    else:
        monkeypatch.setattr("fcntl.flock", refuse)
    (tmp_path / f"{PREFIX}x").write_text("perhaps at work")
    with atomic_file(tmp_path / "a") as temporary:
        temporary.write_text("whole")
    sweep(tmp_path)
    assert names(tmp_path) == [f"{PREFIX}x", "a"]


def test_json_round_trip(tmp_path: Path) -> None:
    value = {"b": 1, "a": [None, "é"]}
    write_json(tmp_path / "x.json", value)
    assert read_json(tmp_path / "x.json") == value
    assert list(read_json(tmp_path / "x.json")) == ["b", "a"]
