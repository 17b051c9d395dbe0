"""A workshop of one's own to damage, small disks, and what every failure must look like."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.shell import Shell
from tests.support.warm import Running


@pytest.fixture
def desk(workshop: Shell, tmp_path: Path) -> Shell:
    """A copy of the toy teacher, its data and its run, which a test may damage."""
    for name in ("toy.zip", "toy-features", "toy.toy.npz", "toy-teacher", "run"):
        source = workshop.folder / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    return Shell(tmp_path)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """A function that mounts a file system of a given size in kB; skips where mounts are not permitted."""
    mounted: list[Path] = []

    def mount(name: str, kilobytes: int, options: str = "") -> Path:
        folder = tmp_path / name
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k{options}", "tmpfs", str(folder)]
        if subprocess.run(command, capture_output=True, check=False).returncode != 0:
            pytest.skip("mounts are not permitted here")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def require_refusal(done: subprocess.CompletedProcess[bytes], code: int, *words: str) -> None:
    """It ended with this code, one line of cause and one of advice, no result and no traceback."""
    text = done.stderr.decode()
    assert done.returncode == code, text
    assert not done.stdout
    assert "Traceback" not in text
    if code < 128:
        assert "error: " in text and "hint: " in text, text
    for word in words:
        assert word in text, text


def wait_for(there: Callable[[], object], running: Running, seconds: float = 60) -> None:
    """Wait until something is true of a command at work."""
    end = time.monotonic() + seconds
    while not there():
        assert running.alive, running.wait().stderr.decode()
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.01)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file under a folder but those of the home, and every empty folder, to compare with later."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if "home" in path.relative_to(folder).parts:
            continue
        if path.is_file():
            found[str(path.relative_to(folder))] = path.read_bytes()
        elif path.is_dir() and not any(path.iterdir()):
            found[f"{path.relative_to(folder)}/"] = b""
    return found


def leftovers(folder: Path) -> list[Path]:
    """Temporary files and folders under a folder."""
    return [path for path in folder.rglob(".tmp-*") if "home" not in path.parts]
