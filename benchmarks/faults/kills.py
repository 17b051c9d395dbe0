"""What does SIGKILL leave behind? Are its files whole, and does the same command resume to the same result?

    python -m benchmarks.faults.kills [--kills 200] [--out build/kills] [--seed 0]

Takes about half an hour for 200 kills. Prints a table, and keeps its rows as JSON and CSV under --out; it resumes
where it stopped. A toy teacher, its run and its data are made first. Each of four commands runs once undisturbed. Then
it is killed at random moments, again and again in one folder, and now and then allowed to finish; its result is
compared with the first one's. After every kill each file under a final name is opened.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.numpy import load_file

from benchmarks.support.pages import markdown_table
from benchmarks.support.results import Results
from tests.support.shell import DISTILL, IMAGES, Shell
from tests.support.timeless import timeless

GROUP = 10
"""Kills to a row."""
ROUNDS = 4
"""Kills in one folder before the command is let through."""


def _bytes_of(folder: Path, pattern: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob(pattern))}


def _distilled(folder: Path) -> Any:
    return _bytes_of(folder, "new/generator/*.safetensors"), timeless(folder / "new")


def _benched(folder: Path) -> Any:
    cached = sorted((folder / "home" / "cache" / "baselines").glob("*/*.npz"))
    return {path.name: np.load(path)["features"].tobytes() for path in cached}


@dataclass(frozen=True)
class Task:
    """A command, and what it leaves."""

    arguments: tuple[str, ...]
    result: Callable[[Path], Any]


TASKS = {
    "distill": Task((*DISTILL, "--steps", "24", "-o", "new"), _distilled),
    "prepare": Task(
        ("prepare", str(IMAGES), "--size", "256", "--workers", "1", "-o", "new.zip"),
        lambda at: _bytes_of(at, "new.zip"),
    ),
    "sample": Task(
        ("sample", "--model", "run", "-N", "200", "--batch-size", "8", "-o", "new"),
        lambda at: _bytes_of(at, "new/[!.]*.png"),
    ),
    "bench": Task(
        ("bench", "--model", "run", "--compare", "ddim-20", "-N", "64", "--batch-size", "8", "--metrics", "fd",
         "--features", "toy-features"),
        _benched,
    ),
}  # fmt: skip


@dataclass
class Outcome:
    """The outcome of a number of kills."""

    kills: int = 0
    through: int = 0
    lost: list[str] = field(default_factory=list)
    bad_files: list[str] = field(default_factory=list)
    different: list[str] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)

    @property
    def flawless(self) -> bool:
        """Nothing lost, nothing half-written, nothing different, nothing left lying about."""
        return not (self.lost or self.bad_files or self.different or self.leftovers)


def workshop(folder: Path) -> Shell:
    """A toy teacher and its run, made once."""
    shell = Shell(folder)
    folder.mkdir(parents=True, exist_ok=True)
    fit = ("--fit-teacher", "tiny", "--fit-features", "--fit-steps", "6")
    for arguments in (
        ("prepare", str(IMAGES), "--size", "16", "-o", "toy.zip", *fit),
        (*DISTILL, "--steps", "12", "-o", "run"),
    ):
        done = shell.gsd(*arguments)
        if done.returncode != 0:
            raise SystemExit(done.stderr.decode())
    return shell


def kill_often(shop: Shell, name: str, kills: int, seed: int, scratch: Path) -> Outcome:
    """Kill one command a number of times, in copies of the workshop under `scratch`."""
    task, chance, outcome = TASKS[name], random.Random(seed), Outcome()
    alone = _copy(shop, scratch / "alone")
    begun = time.monotonic()
    done = alone.gsd(*task.arguments)
    duration = time.monotonic() - begun
    if done.returncode != 0:
        raise RuntimeError(done.stderr.decode())
    expected = task.result(alone.folder)
    while outcome.kills < kills:
        desk = _copy(shop, scratch / "killed")
        for _ in range(ROUNDS):
            running = desk.running(*task.arguments)
            time.sleep(chance.uniform(0, duration))
            running.send(signal.SIGKILL)
            code = running.wait().returncode
            outcome.kills += code == -signal.SIGKILL
            if code not in (0, -signal.SIGKILL):
                outcome.lost.append(f"kill {outcome.kills}: exit {code}")
            outcome.bad_files += [f"kill {outcome.kills}: {path}" for path in bad_files(desk.folder)]
            if outcome.kills == kills:
                break
        done = desk.gsd(*task.arguments)
        outcome.through += 1
        if done.returncode != 0:
            outcome.lost.append(f"kill {outcome.kills}: {done.stderr.decode()[-300:]}")
        elif task.result(desk.folder) != expected:
            outcome.different.append(f"kill {outcome.kills}")
        outcome.leftovers += [f"kill {outcome.kills}: {path}" for path in desk.folder.rglob(".tmp-*")]
    return outcome


def _copy(shop: Shell, folder: Path) -> Shell:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(shop.folder, folder, ignore=shutil.ignore_patterns("home", "scratch"))
    return Shell(folder)


def bad_files(folder: Path) -> Iterator[Path]:
    """Files under final names that do not open. A last line of metrics.jsonl may be torn: readers leave it out."""
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.is_file() and not hidden and path.suffix in READERS:
            try:
                READERS[path.suffix](path)
            except Exception:
                yield path


def _load_picture(path: Path) -> None:
    with Image.open(path) as image:
        image.load()


def _load_zip(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        if archive.testzip() is not None:
            raise ValueError(path)


READERS: dict[str, Callable[[Path], object]] = {
    ".png": _load_picture,
    ".zip": _load_zip,
    ".npz": _load_zip,
    ".safetensors": load_file,
    ".json": lambda path: json.loads(path.read_text(encoding="utf-8")),
}


def main() -> None:
    """Kill, and keep the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("build/kills"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    scratch = options.out.resolve() / "scratch"
    shop = workshop(options.out.resolve() / "workshop")
    rows = Results(options.out / "kills.json", {"kills": options.kills, "seed": options.seed})
    table = []
    for name in TASKS:
        groups = [
            rows.measure_once(f"{name} {i}", partial(_row, shop, name, options.seed + i, scratch))
            for i in range(max(1, options.kills // GROUP // len(TASKS)))
        ]
        counts = {key: sum(_count(group[key]) for group in groups) for key in groups[0]}
        table.append([f"gsd {name}", *counts.values()])
    shutil.rmtree(scratch, ignore_errors=True)
    columns = ["command", "kills", "resumed to the end", "runs lost", "bad files", "other results", "leftovers"]
    print(markdown_table(columns, table))


def _row(shop: Shell, name: str, seed: int, scratch: Path) -> dict[str, Any]:
    return vars(kill_often(shop, name, GROUP, seed, scratch))


def _count(value: Any) -> int:
    return len(value) if isinstance(value, list) else int(value)


if __name__ == "__main__":
    main()
