"""Full, small and read-only file systems: exit 8, what is free is said, what was there stays."""

from __future__ import annotations

import resource
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from gsd_cli.core.training.checkpoint import CheckpointStore
from tests.faults.conftest import contents, leftovers, require_refusal
from tests.support.shell import DISTILL, IMAGES, Shell

Mount = Callable[..., Path]
SAMPLE = ("sample", "--model", "run")
BENCH = ("bench", "--model", "run", "--compare", "ddim-2", "--metrics", "time")
WRITERS = [
    (*SAMPLE, "-N", "400", "-o", "small/many"),
    (*SAMPLE, "-N", "2000", "-o", "small/x.npz"),
    (*SAMPLE, "-N", "2000", "-o", "small/x.zip"),
    (*SAMPLE, "-N", "4000", "-o", "small/x.tar"),
    (*SAMPLE, "-N", "3600", "-o", "small/grid.png", "--grid"),
    ("prepare", str(IMAGES), "--size", "64", "-o", "small/x.zip"),
    ("prepare", str(IMAGES), "--size", "64", "-o", "small/x", "--shards", "2"),
    (*DISTILL, "--steps", "5", "-o", "small/run"),
    ("interpolate", "seed:1", "seed:2", "--model", "run", "--frames", "400", "-o", "small/x.gif"),
    ("interpolate", "seed:1", "seed:2", "--model", "run", "--frames", "60", "-o", "small/frames"),
    (*BENCH, "--report", "small/report"),
]


@pytest.mark.fault(4, "a file system of 100 to 250 kB as the output's")
@pytest.mark.parametrize("arguments", WRITERS, ids=lambda words: f"{words[0]} {words[-1]}")
def test_a_full_disk(arguments: tuple[str, ...], desk: Shell, disk: Mount) -> None:
    small = disk("small", 250 if arguments[0] in ("distill", "sample") else 100)
    require_refusal(desk.gsd(*arguments), 8, "small", "free")
    assert not leftovers(small)
    assert not list(small.glob("x*")) and not (small / "grid.png").exists()
    for path in small.rglob("*.png"):
        with Image.open(path) as picture:
            picture.load()


@pytest.mark.fault(4, "a disk that fills up while a run resumes")
def test_a_run_whose_disk_fills_up_keeps_its_checkpoint(desk: Shell, disk: Mount) -> None:
    small = disk("small", 8000)
    done = desk.gsd(*DISTILL, "--steps", "4", "-o", "small/run")
    assert done.returncode == 0, done.stderr.decode()
    (small / "filler").write_bytes(bytes(shutil.disk_usage(small).free - 30_000))
    require_refusal(desk.gsd(*DISTILL, "--steps", "8", "-o", "small/run"), 8, "free")
    checkpoint, damaged = CheckpointStore(small / "run" / "checkpoints").latest()
    assert checkpoint is not None and checkpoint.step == 4 and not damaged
    (small / "filler").unlink()
    done = desk.gsd(*DISTILL, "--steps", "8", "-o", "small/run")
    assert done.returncode == 0, done.stderr.decode()
    assert "resumed at step 4" in done.stderr.decode()


@pytest.mark.fault(4, "a read-only file system")
@pytest.mark.parametrize("arguments", WRITERS, ids=lambda words: f"{words[0]} {words[-1]}")
def test_a_read_only_file_system_is_said_before_work_begins(
    arguments: tuple[str, ...], desk: Shell, disk: Mount
) -> None:
    disk("small", 64, ",ro")
    before = contents(desk.folder)
    done = desk.gsd(*arguments)
    require_refusal(done, 8, "small")
    assert contents(desk.folder) == before


@pytest.mark.fault(4, "a file-size limit")
@pytest.mark.parametrize("arguments", [WRITERS[1], WRITERS[7], WRITERS[8]], ids=lambda words: f"{words[0]} {words[-1]}")
def test_a_file_that_may_not_grow(arguments: tuple[str, ...], desk: Shell) -> None:
    """As a quota: without a mount."""
    (desk.folder / "small").mkdir()
    limited = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (20_000, 20_000))
    require_refusal(desk.running(*arguments, prepare=limited).wait(), 8, "small")
    assert not leftovers(desk.folder)


@pytest.mark.fault(4, "a teacher whose run needs more than is free")
def test_a_run_that_cannot_fit_is_refused_before_torch_is_loaded(desk: Shell, disk: Mount) -> None:
    disk("small", 1000)
    done = desk.gsd("distill", "--teacher", "ddpm-fashion", "--steps", "1", "-o", "small/run")
    require_refusal(done, 8, "needs about", "free")
    assert not list((desk.folder / "small").iterdir())


@pytest.mark.fault(4, "a full or read-only cache")
@pytest.mark.parametrize("options", ["", ",ro"], ids=["full", "read-only"])
def test_a_cache_that_cannot_be_written_costs_no_work(options: str, desk: Shell, disk: Mount) -> None:
    """What was worked out is used; that it was not kept is said."""
    cache = disk("cache", 8, options)
    if not options:
        (cache / "filler").write_bytes(bytes(8192))
    invert = ("interpolate", "example:bag", "seed:1", "--model", "run", "--invert-steps", "2", "--cache-dir", "cache")
    done = desk.gsd(*invert, "-o", "x.png")
    text = done.stderr.decode()
    assert done.returncode == 0, text
    assert text.count("warning: ") >= 1 and "cache" in text
    bench = desk.gsd(
        "bench", "--model", "run", "--compare", "ddim-2", "-N", "64", "--metrics", "fd", "--features", "toy-features",
        "--cache-dir", "cache",
    )  # fmt: skip
    assert bench.returncode == 0, bench.stderr.decode()
    edit = desk.gsd("edit", "seed:1", "--model", "run", "--direction", "pc0", "--cache-dir", "cache", "-o", "y.png")
    assert edit.returncode == 0, edit.stderr.decode()
    assert not leftovers(cache)
