"""SIGKILL not at random but at every point: before each call to the file system that a write makes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gsd_cli.base.atomic import atomic_file, atomic_files, atomic_folder, sweep
from gsd_cli.core.training.checkpoint import CheckpointStore

CALLS = ("open", "os.", "shutil.", "tempfile.")


def _die_at(point: int, work: Callable[[Path], object], folder: Path) -> None:
    """Do the work; die by SIGKILL before call number `point` of the file system."""
    seen = 0

    def watch(name: str, _: tuple[object, ...]) -> None:
        nonlocal seen
        if name.startswith(CALLS) and work_begun:
            seen += 1
            if seen == point:
                os.kill(os.getpid(), signal.SIGKILL)

    work_begun = True
    sys.addaudithook(watch)
    work(folder)
    os._exit(0)


def killed_everywhere(
    work: Callable[[Path], object], check: Callable[[Path, bool], None], make: Callable[[int], Path]
) -> int:
    """Kill the work at its first call, its second ... until it comes through; returns how often it was killed."""
    fork = multiprocessing.get_context("fork")
    for point in range(1, 500):
        folder = make(point)
        process = fork.Process(target=_die_at, args=(point, work, folder))
        process.start()
        process.join(60)
        through = process.exitcode == 0
        assert through or process.exitcode == -signal.SIGKILL
        check(folder, through)
        if through:
            return point - 1
    raise AssertionError("it never came through")


@pytest.mark.fault(1, "SIGKILL before every file-system call of a save")
def test_a_checkpoint(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    def tensors(step: int) -> dict[str, torch.Tensor]:
        return {"a": torch.full((1000,), float(step))}

    def make(point: int) -> Path:
        store = CheckpointStore(tmp_path / str(point))
        for step in (10, 20):
            store.save(step, tensors(step), {"note": step})
        return store.folder

    def check(folder: Path, through: bool) -> None:
        store = CheckpointStore(folder)
        checkpoint, damaged = store.latest()
        assert checkpoint is not None and damaged == []
        assert checkpoint.step in ((30,) if through else (20, 30))
        assert (checkpoint.tensors["a"] == checkpoint.step).all() and checkpoint.state == {"note": checkpoint.step}
        assert not list(folder.glob(".tmp-*")), "leftovers are swept"
        store.save(40, tensors(40), {"note": 40})
        assert store.latest()[0].step == 40

    kills = killed_everywhere(lambda folder: CheckpointStore(folder).save(30, tensors(30), {"note": 30}), check, make)
    assert kills > 10
    record_property("injections", kills)


@pytest.mark.fault(1, "SIGKILL before every file-system call of a file's and a folder's replacement")
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_file_and_a_folder(kind: str, tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    """What is there is never missing and always whole, the old or the new."""

    def write(target: Path, content: str) -> None:
        if kind == "file":
            with atomic_file(target) as temporary:
                temporary.write_text(content)
        else:
            with atomic_folder(target) as temporary:
                for name in ("one", "two"):
                    (temporary / name).write_text(content)

    def make(point: int) -> Path:
        write(tmp_path / str(point) / "x", "old")
        return tmp_path / str(point)

    def check(folder: Path, through: bool) -> None:
        target = folder / "x"
        files = [target] if kind == "file" else [target / "one", target / "two"]
        found = {path.read_text() for path in files}
        assert found in ([{"new"}] if through else [{"old"}, {"new"}])

    kills = killed_everywhere(lambda folder: write(folder / "x", "new"), check, make)
    assert kills > 3
    record_property("injections", kills)


@pytest.mark.fault(1, "SIGKILL before every file-system call of many files' replacement")
def test_many_files(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    """Each is the old one or the new one, in the order in which they were written."""
    names = ["one", "two", "three"]

    def write(folder: Path, content: bytes) -> None:
        with atomic_files(folder) as put:
            for name in names:
                assert put(name, content) == folder / name

    def make(point: int) -> Path:
        write(tmp_path / str(point), b"old")
        return tmp_path / str(point)

    def check(folder: Path, through: bool) -> None:
        found = [(folder / name).read_bytes() for name in names]
        new = found.count(b"new")
        assert found == [b"new"] * new + [b"old"] * (len(names) - new)
        assert new == len(names) or not through
        sweep(folder)
        assert sorted(path.name for path in folder.iterdir()) == sorted(names)

    kills = killed_everywhere(lambda folder: write(folder, b"new"), check, make)
    assert kills > 9
    record_property("injections", kills)
