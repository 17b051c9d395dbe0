"""The profile of a few steps: counts that are known, files that open, and a run that does not notice."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import torch

from gsd_cli.core.distillation.step import Distillation
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.training.profiling import PROFILED, WARM_UP, ProfiledTask, Profiler
from gsd_cli.options import DistillSettings

CPU = torch.device("cpu")


def test_counts_are_means_per_call() -> None:
    x, profiler = torch.ones(4), Profiler(CPU)
    assert profiler.run(lambda: x.exp().exp().sum().item()) > 0
    profiler.run(lambda: x.exp())
    found = profiler.profile()
    assert (found.steps, found.reads, found.host_waits) == (2, 0.5, 0)
    # exp, exp, sum, item, and what item calls; then exp
    assert 2.5 <= found.launches <= 4
    assert "aten::exp" in found.table and found.seconds > 0
    assert found.summary().startswith("2 steps")


@pytest.mark.slow
def test_a_profiled_run_is_the_same_run(toy_teacher: Denoiser, tmp_path: Path) -> None:
    def make() -> Distillation:
        return Distillation(toy_teacher, DistillSettings(batch_size=4), 10, CPU, lambda *_: {})

    plain, task, lines = make(), make(), list[str]()
    profiled = ProfiledTask(task, CPU, tmp_path / "profile", lines.append)
    for step in range(WARM_UP + PROFILED + 1):
        assert plain.step(step) == profiled.step(step)
    assert profiled.tensors().keys() == plain.tensors().keys()
    assert all(torch.equal(a, b) for a, b in zip(plain.tensors().values(), profiled.tensors().values(), strict=True))
    figures = json.loads((tmp_path / "profile" / "profile.json").read_text())
    assert figures["steps"] == PROFILED and figures["launches"] > 500 and figures["host_waits"] == 0
    assert "aten::" in (tmp_path / "profile" / "profile.txt").read_text()
    trace = json.loads(gzip.decompress((tmp_path / "profile" / "trace.json.gz").read_bytes()))
    assert len(trace["traceEvents"]) > 500
    assert len(lines) == 1 and "profile.txt" in lines[0]
