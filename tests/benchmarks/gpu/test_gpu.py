"""The script for a GPU, tried out on a CPU at reduced size."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import measures
from benchmarks.gpu.plain_loop import plain_step
from benchmarks.gpu.plan import ROOT, Plan, Rows
from benchmarks.gpu.random_teachers import PARAMETERS, random_net, random_teacher
from gsd_cli.core.training.profiling import Profiler
from gsd_cli.options import DistillSettings


@pytest.mark.parametrize("name", PARAMETERS)
def test_random_teachers_have_the_published_sizes(name: str) -> None:
    net = random_net(name, device="meta")
    assert sum(p.numel() for p in net.parameters()) == PARAMETERS[name]
    assert net(torch.zeros(1, 3, net.config.sample_size, net.config.sample_size, device="meta"), 3).sample.shape[1] == 3


def test_another_size_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PARAMETERS, "tiny", 7)
    with pytest.raises(AssertionError, match="not 7"):
        random_net("tiny", device="meta")


@pytest.mark.parametrize("fair", [True, False])
def test_the_plain_loops_run_and_only_the_peers_read_their_losses(fair: bool) -> None:
    step = plain_step(random_teacher("tiny"), DistillSettings(batch_size=4), torch.device("cpu"), fair=fair)
    counts = Profiler(torch.device("cpu"))
    counts.run(step)
    reads = counts.profile().reads
    # Adam reads its count of steps in either
    other = plain_step(random_teacher("tiny"), DistillSettings(batch_size=4), torch.device("cpu"), fair=not fair)
    again = Profiler(torch.device("cpu"))
    again.run(other)
    assert reads - again.profile().reads == (-2 if fair else 2)


def plan(tmp_path: Path) -> Plan:
    return Plan(tmp_path, "cpu", True, 0.5)


def rows_of(tmp_path: Path, part: str) -> dict[str, dict]:
    found = json.loads((tmp_path / f"{part}.json").read_text())["rows"]
    failed = {name: row["traceback"] for name, row in found.items() if "error" in row}
    assert not failed, "\n".join(failed.values())
    return found


def test_parity_of_a_cpu_with_itself(tmp_path: Path) -> None:
    measures.parity(plan(tmp_path), Rows(tmp_path / "b.json"))
    assert [row["passed"] for row in rows_of(tmp_path, "b").values()] == [True, True, True]


@pytest.mark.slow
def test_rates_and_memory(tmp_path: Path) -> None:
    measures.rates(plan(tmp_path), Rows(tmp_path / "c.json"))
    found = rows_of(tmp_path, "c")
    assert len(found) == 3
    assert all(row["images_per_second"] > 0 and row["launches"] > 100 for row in found.values())
    measures.memory(plan(tmp_path), Rows(tmp_path / "d.json"))
    assert all(row["peak_memory"] > 0 for row in rows_of(tmp_path, "d").values())


def test_a_row_that_fails_is_a_result_and_the_next_one_is_measured(tmp_path: Path) -> None:
    rows = Rows(tmp_path / "b.json")
    rows.add("bad", lambda: {}["nothing"])
    rows.add("good", lambda: {"peak_memory": 2**31, "passed": False})
    text = gpu.report(tmp_path, {"b": {"ended": "done", "seconds": 3.0}})
    assert "FAILED: KeyError" in text and "Traceback" in text
    assert "| good | peak_memory 2.00 GiB, passed NO, seconds" in text


def test_a_part_that_ends_badly_shows_what_it_printed(tmp_path: Path) -> None:
    (tmp_path / "c.log").write_text("CUDA error: an illegal memory access")
    text = gpu.report(tmp_path, {"c": {"ended": "ended with code -6", "seconds": 1.0}})
    assert "ended with code -6" in text and "illegal memory access" in text


def test_a_part_past_its_limit_is_stopped(tmp_path: Path) -> None:
    arguments = argparse.Namespace(out=tmp_path, device="cpu", small=True)
    assert gpu.run_part("imports", arguments, 0.05)["ended"].startswith("stopped after its limit")


@pytest.mark.slow
def test_the_whole_script(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "--small", "--device", "cpu", "--minutes", "8"]
    done = subprocess.run([*command, "--out", str(tmp_path)], capture_output=True, text=True, timeout=290, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    for part in gpu.TITLES:
        rows_of(tmp_path, part)
    text = (tmp_path / "report.md").read_text()
    assert all(title in text for title in gpu.TITLES.values()) and "FAILED" not in text
