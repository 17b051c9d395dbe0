"""Checkpoints written in a thread: what the store promises, and errors where they can be heard."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gsd_cli.base.errors import ExitCode, GsdError
from gsd_cli.core.training.checkpoint import CheckpointStore, CheckpointWriter
from gsd_cli.core.training.loop import train
from gsd_cli.core.training.report import Cadence


class Held(CheckpointStore):
    """A store that writes when it is let."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.go = threading.Event()

    def write(self, step: int, copies: dict[str, Tensor], state: dict[str, object]) -> Path:
        assert self.go.wait(30)
        return super().write(step, copies, state)


def test_what_is_saved_is_the_state_when_save_was_called(tmp_path: Path) -> None:
    store, value = Held(tmp_path), torch.zeros(3)
    with CheckpointWriter(store) as writer:
        writer.save(1, {"x": value}, {})
        value += 1
        assert store.latest() == (None, [])
        store.go.set()
    checkpoint, _ = store.latest()
    assert checkpoint is not None and checkpoint.tensors["x"].tolist() == [0, 0, 0]
    assert writer.seconds


def test_the_next_one_waits_for_the_one_before(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=5)
    with CheckpointWriter(store) as writer:
        for step in range(1, 6):
            writer.save(step, {"x": torch.full((1000,), float(step))}, {})
            assert sum(thread.name == "checkpoint" for thread in threading.enumerate()) <= 1
    assert [path.name for path in sorted(tmp_path.glob("step-*"))] == [f"step-{k:08d}" for k in range(1, 6)]


def test_an_error_is_raised_once_by_whoever_asks_next(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    writer = CheckpointWriter(CheckpointStore(tmp_path / "file"))
    writer.save(1, {"x": torch.zeros(1)}, {})
    with pytest.raises(GsdError) as caught:
        writer.wait()
    assert caught.value.code == ExitCode.STORAGE
    writer.check()


def test_an_error_of_the_loop_is_not_hidden_by_one_of_the_thread(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")

    def loop() -> None:
        with CheckpointWriter(CheckpointStore(tmp_path / "file")) as writer:
            writer.save(1, {"x": torch.zeros(1)}, {})
            raise RuntimeError("the loop's")

    with pytest.raises(RuntimeError, match="the loop's"):
        loop()


class Counting:
    """A task that counts its steps."""

    batch_size = 1

    def __init__(self) -> None:
        self.count = torch.zeros(1)

    def step(self, step: int) -> dict[str, float]:
        self.count += 1
        return {"loss": 1.0}

    def tensors(self) -> dict[str, Tensor]:
        return {"count": self.count}

    def load(self, tensors: dict[str, Tensor]) -> None:
        self.count = tensors["count"]

    def evaluate(self, step: int) -> dict[str, float]:
        return {}


def test_a_save_that_fails_ends_the_run_and_frees_the_folder(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("in the way")
    with pytest.raises(GsdError) as caught:
        list(train(Counting(), 50, tmp_path, Cadence(100, checkpoint_seconds=-1.0)))
    assert caught.value.code == ExitCode.STORAGE
    (tmp_path / "checkpoints").unlink()
    assert len(list(train(Counting(), 3, tmp_path, Cadence(100)))) == 3


def test_a_caller_who_leaves_early_leaves_an_intact_folder(tmp_path: Path) -> None:
    for report in train(Counting(), 50, tmp_path, Cadence(100, checkpoint_seconds=-1.0)):
        if report.step == 7:
            break
    checkpoint, damaged = CheckpointStore(tmp_path / "checkpoints").latest()
    assert checkpoint is not None and checkpoint.step == checkpoint.tensors["count"].item() == 7 and not damaged
