from __future__ import annotations

import time

import pytest
import torch

from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.models.generator import Generator
from gsd_cli.metrics.speed import memory_of_call, throughput, time_interleaved


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


def test_throughput_is_given_for_each_size(toy_teacher: Denoiser) -> None:
    rates = throughput(Generator(toy_teacher), 8)
    assert list(rates) == [1, 4, 8]
    assert all(rate > 0 for rate in rates.values())


def test_peak_memory_sees_what_a_call_allocates() -> None:
    def call(x: torch.Tensor) -> torch.Tensor:
        return (x.expand(64, -1) + 1).sum(0)

    found = memory_of_call(call, torch.zeros(250_000))
    if found is None:
        pytest.skip("this system tells no high-water mark")
    assert 50e6 < found < 200e6  # 64 MB, and pages around it
