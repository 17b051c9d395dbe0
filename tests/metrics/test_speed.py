from __future__ import annotations

import time

import torch

from gsd_cli.metrics.timing import time_interleaved


def test_tasks_take_turns_and_times_are_per_image() -> None:
    order: list[str] = []

    def task(name: str, seconds: float):  # type: ignore[no-untyped-def]
        return lambda: (order.append(name), time.sleep(seconds))

    found = time_interleaved({"a": task("a", 0.004), "b": task("b", 0.04)}, 4, torch.device("cpu"), repeats=5)
    assert order == ["a", "b"] * 5
    assert found["a"].median >= 0.001
    assert found["b"].median >= 0.01
    assert found["a"].low <= found["a"].median <= found["a"].high
    assert (found["b"].repeats, found["b"].batch) == (5, 4)
