from __future__ import annotations

import json
import math
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gsd_cli.base.errors import GsdError
from gsd_cli.core.training.checkpoint import CheckpointStore
from gsd_cli.core.training.log import MetricsLog, read_metrics
from gsd_cli.core.training.loop import train
from gsd_cli.core.training.report import MAX_BAD_STEPS, Cadence, Report


class Counter:
    """The least task: its state is the number of good steps."""

    batch_size = 4

    def __init__(self, bad: frozenset[int] | range = frozenset()):
        self.count = torch.zeros(1)
        self.bad = bad
        self.evaluated: list[int] = []

    def step(self, step: int) -> dict[str, float]:
        if step in self.bad:
            return {"loss": math.nan}
        self.count += 1
        return {"loss": 1.0, "speed": math.inf}  # only losses decide

    def tensors(self) -> dict[str, Tensor]:
        return {"count": self.count}

    def load(self, tensors: dict[str, Tensor]) -> None:
        self.count = tensors["count"]

    def evaluate(self, step: int) -> dict[str, float]:
        self.evaluated.append(step)
        return {"fd": float(step)}


ALWAYS = Cadence(evaluate_steps=3, log_steps=2, checkpoint_seconds=-1.0)
AT_THE_END = Cadence(evaluate_steps=100, log_steps=100, checkpoint_seconds=1e9)


def test_reports_rows_and_evaluations(tmp_path: Path) -> None:
    task = Counter()
    reports = list(train(task, 7, tmp_path, ALWAYS))
    assert [(r.step, r.images, r.total) for r in reports] == [(k, 4 * k, 7) for k in range(1, 8)]
    assert task.evaluated == [0, 3, 6, 7]
    assert [r.step for r in reports if r.evaluation] == [3, 6, 7]
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [(r["step"], r.get("fd")) for r in rows] == [(0, 0.0), (2, None), (3, 3.0), (4, None), (6, 6.0), (7, 7.0)]


def test_stops_saved_at_the_next_boundary(tmp_path: Path) -> None:
    task, asked = Counter(), iter([False, False, True])
    assert [r.step for r in train(task, 50, tmp_path, AT_THE_END, lambda: next(asked))] == [1, 2, 3]
    checkpoint, _ = CheckpointStore(tmp_path / "checkpoints").latest()
    assert (checkpoint.step, checkpoint.tensors["count"].item()) == (3, 3)
    again = Counter()
    assert [r.step for r in train(again, 5, tmp_path, AT_THE_END)] == [4, 5]
    assert again.count.item() == 5
    assert list(train(Counter(), 5, tmp_path, AT_THE_END)) == []  # nothing is left to do


def test_seconds_add_up_over_a_resumed_run(tmp_path: Path) -> None:
    list(train(Counter(), 1, tmp_path, ALWAYS))
    store = CheckpointStore(tmp_path / "checkpoints")
    store.save(1, {"count": torch.ones(1)}, {"skipped": 5, "seconds": 1000.0})
    (report,) = train(Counter(), 2, tmp_path, ALWAYS)
    assert 1000 < report.seconds < 1100
    assert report.skipped == 5


def test_time_in_steps_is_told_from_time_beside_them(tmp_path: Path) -> None:
    class Slow(Counter):
        def step(self, step: int) -> dict[str, float]:
            time.sleep(0.02)
            return super().step(step)

        def evaluate(self, step: int) -> dict[str, float]:
            time.sleep(0.05)
            return super().evaluate(step)

    last = list(train(Slow(), 4, tmp_path, AT_THE_END))[-1]
    assert last.step_seconds >= 0.08
    assert last.session_seconds - last.step_seconds >= 0.05


def test_a_damaged_checkpoint_is_reported(tmp_path: Path) -> None:
    list(train(Counter(), 2, tmp_path, ALWAYS))
    newest = tmp_path / "checkpoints" / "step-00000002"
    (newest / "tensors.safetensors").write_bytes(b"x")
    (report,) = train(Counter(), 2, tmp_path, ALWAYS)
    assert report.notes == [f"damaged checkpoint skipped: {newest}", "resumed at step 1"]


def test_no_checkpoint_is_written_of_a_state_in_doubt(tmp_path: Path) -> None:
    newest = []
    for steps in range(1, 6):
        run, asked = tmp_path / str(steps), iter([False] * (steps - 1) + [True])
        last = list(train(Counter(frozenset({2, 3})), 9, run, ALWAYS, lambda asked=asked: next(asked)))[-1]
        newest.append((last.step, CheckpointStore(run / "checkpoints").latest()[0].step, last.skipped))
    assert newest == [(1, 1, 0), (2, 2, 0), (3, 2, 1), (4, 2, 2), (5, 5, 2)]


def test_bad_steps_in_a_row_end_the_run(tmp_path: Path) -> None:
    steps: list[int] = []
    with pytest.raises(GsdError) as caught:
        steps.extend(report.step for report in train(Counter(range(3, 100)), 100, tmp_path, ALWAYS))
    assert caught.value.code == 6
    assert steps[-1] == 3 + MAX_BAD_STEPS - 1
    assert CheckpointStore(tmp_path / "checkpoints").latest()[0].step == 3


def test_scattered_bad_steps_do_not(tmp_path: Path) -> None:
    reports = list(train(Counter(frozenset(range(1, 60, 2))), 60, tmp_path, AT_THE_END))
    assert reports[-1].skipped == 30 > MAX_BAD_STEPS


def test_the_folder_is_free_after_an_error(tmp_path: Path) -> None:
    class Failing(Counter):
        def step(self, step: int) -> dict[str, float]:
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError):
        list(train(Failing(), 3, tmp_path, ALWAYS))
    assert len(list(train(Counter(), 3, tmp_path, ALWAYS))) == 3


def test_rows_are_json_whatever_the_loss_was(tmp_path: Path) -> None:
    list(train(Counter(frozenset({1})), 3, tmp_path, Cadence(100, 1)))

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 4
    for line in lines:
        json.loads(line, parse_constant=refuse)


def test_seconds_left() -> None:
    def report(rate: float) -> Report:
        return Report(10, 40, 640, {}, {}, 1.0, rate, 0)

    assert report(64.0).seconds_left == pytest.approx(30)  # 30 steps of 64 images
    assert math.isnan(report(0.0).seconds_left)


# -- metrics.jsonl ------------------------------------------------------------------------------


def write_rows(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def test_rows_after_the_resumed_step_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write_rows(path, "".join(json.dumps({"step": k, "loss": k / 2}) + "\n" for k in range(6)))
    MetricsLog(path, 3).append({"step": 4, "loss": 9.0})
    assert [(r["step"], r["loss"]) for r in read_metrics(path)] == [(0, 0), (1, 0.5), (2, 1), (3, 1.5), (4, 9)]


def test_a_fresh_run_starts_a_fresh_log(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write_rows(path, '{"step": 0}\n{"step": 1}\n')
    MetricsLog(path, 0)
    assert path.read_text() == ""


@pytest.mark.parametrize("tail", ['{"step": 2, "lo', '{"step"', "{", "\x00\x00", "[1]", '{"loss": 1}', '{"step": "x"}'])
def test_a_torn_last_line_is_left_out(tmp_path: Path, tail: str) -> None:
    path = tmp_path / "metrics.jsonl"
    write_rows(path, '{"step": 0}\n{"step": 1}\n' + tail)
    assert [r["step"] for r in read_metrics(path)] == [0, 1]
    log = MetricsLog(path, 1)
    log.append({"step": 2})
    assert [r["step"] for r in read_metrics(path)] == [0, 1, 2]
    assert path.read_text().endswith('{"step": 2}\n')


def test_a_damaged_byte_does_not_hide_the_other_rows(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 0}\n{"st\xe5p": 1}\n{"step": 2}\n')
    assert [r["step"] for r in read_metrics(path)] == [0, 2]


def test_a_missing_log_is_empty(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "none.jsonl") == []
