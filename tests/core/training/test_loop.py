from __future__ import annotations

import json
import math
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gsd_cli.base.errors import GsdError
from gsd_cli.core.training.checkpoint import CheckpointStore
from gsd_cli.core.training.log import MetricsLog, read_metrics
from gsd_cli.core.training.loop import ema_decay, train, trapezoid, update_average
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


# -- moving average and learning rate -----------------------------------------------------------


@pytest.mark.parametrize(
    ("batch", "seen", "half_life", "beta"),
    [
        (64, 50_000_000, 64, 0.5),
        (64, 50_000_000, 128, 0.5**0.5),
        (256, 10_000_000, 500_000, 0.5 ** (256 / 500_000)),
        (64, 64, 50_000, 0.5**20),  # ramped: h = 3.2 images
        (64, 6400, 50_000, 0.5**0.2),
        (64, 0, 50_000, 0.0),
    ],
)
def test_ema_decay(batch: int, seen: int, half_life: float, beta: float) -> None:
    assert ema_decay(batch, seen, half_life) == pytest.approx(beta, rel=1e-12)


@pytest.mark.parametrize(("ramp", "half_life"), [(0.05, 320), (0.2, 1280), (1.0, 5000)])
def test_the_ramp_is_a_share_of_the_images_seen(ramp: float, half_life: float) -> None:
    assert ema_decay(64, 6400, 5000, ramp) == pytest.approx(0.5 ** (64 / half_life), rel=1e-12)


def test_a_weight_halves_in_one_half_life() -> None:
    share = 1.0
    for step in range(10_000 // 50):
        share *= ema_decay(50, 10**9 + step, 10_000)
    assert share == pytest.approx(0.5)


def test_update_average_takes_parameters_and_buffers() -> None:
    average, model = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    nn.init.constant_(model.weight, 5.0)
    model.running_mean.fill_(10.0)
    model.num_batches_tracked.fill_(7)
    update_average(average, model, 0.75)
    assert average.weight.tolist() == [2.0] * 3  # 0.75 * 1 + 0.25 * 5
    assert average.running_mean.tolist() == [2.5] * 3
    assert model.weight.tolist() == [5.0] * 3
    update_average(average, model, 0.0)
    assert average.weight.tolist() == [5.0] * 3


def test_trapezoid() -> None:
    shape = [trapezoid(step, 20, 4, 0.25) for step in range(20)]
    assert shape == pytest.approx([0.25, 0.5, 0.75] + [1.0] * 13 + [0.8, 0.6, 0.4, 0.2])


@pytest.mark.parametrize(
    ("total", "warmup", "decay"), [(1, 0, 0.0), (10, 0, 0.0), (3, 500, 0.25), (10, 2, 1.0), (1, 0, 1.0)]
)
def test_trapezoid_stays_in_range(total: int, warmup: int, decay: float) -> None:
    shape = [trapezoid(step, total, warmup, decay) for step in range(total)]
    assert all(0 < v <= 1 for v in shape)
    if not decay and not warmup:
        assert set(shape) == {1.0}
