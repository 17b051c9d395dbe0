"""Two processes at once where two are allowed: one cache, one hub cache, one output folder of images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.faults.conftest import leftovers
from tests.support.shell import Shell

BENCH = (
    "bench", "--model", "run", "--compare", "ddim-20", "-N", "48", "--batch-size", "8", "--metrics", "fd",
    "--features", "toy-features", "--json",
)  # fmt: skip
EDIT = ("edit", "example:bag", "--model", "run", "--direction", "pc0", "--fit-samples", "256", "--invert-steps", "5")


@pytest.mark.fault(9, "two processes that fill one cache")
@pytest.mark.parametrize("arguments", [BENCH, EDIT], ids=["bench", "edit"])
def test_two_processes_fill_one_cache(arguments: tuple[str, ...], desk: Shell) -> None:
    outputs = [(), ()] if arguments is BENCH else [("-o", "one.png"), ("-o", "two.png")]
    both = [desk.running(*arguments, *output) for output in outputs]
    for running in both:
        done = running.wait()
        assert done.returncode == 0, done.stderr.decode()
        assert b"warning: not kept" not in done.stderr
    if arguments is EDIT:
        one, two = (np.asarray(Image.open(desk.folder / name)) for name in ("one.png", "two.png"))
        np.testing.assert_array_equal(one, two)
    cache = desk.folder / "home" / "cache"
    assert not leftovers(cache)
    kept = {path: path.read_bytes() for path in cache.rglob("*") if path.is_file()}
    assert kept
    third = desk.gsd(*arguments, *outputs[0])
    assert third.returncode == 0
    assert {path: path.read_bytes() for path in cache.rglob("*") if path.is_file()} == kept  # it was all there


@pytest.mark.fault(9, "two gsd sample into one folder")
def test_two_may_write_the_same_pictures(desk: Shell) -> None:
    arguments = ("sample", "--model", "run", "-N", "60", "-o", "out")
    for running in [desk.running(*arguments) for _ in range(2)]:
        done = running.wait()
        assert done.returncode == 0, done.stderr.decode()
    pictures = sorted(Path(desk.folder / "out").iterdir())
    assert len(pictures) == 60
    for path in pictures:
        with Image.open(path) as picture:
            picture.load()
