"""What every training has in common: a loop that can be stopped, resumed and trusted.

A task supplies one step and its state; `train` drives it, keeps checkpoints and metrics, skips
non-finite steps, and yields a report after each step. Randomness is a function of (seed, step),
so a resumed run repeats an uninterrupted one bit for bit on a CPU.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn

from gsd_cli.core.checkpoint import CheckpointStore
from gsd_cli.core.review import review
from gsd_cli.core.world import World
from gsd_cli.errors import ExitCode, GsdError
from gsd_cli.paths import atomic_file, storage_errors

MAX_BAD_STEPS = 20
"""Consecutive non-finite steps after which a run has diverged."""


class Task(Protocol):
    """One kind of training."""

    batch_size: int

    def step(self, step: int) -> dict[str, float]:
        """Do step number `step` (from 0). Returns its metrics; a network whose `*loss*` is not finite
        keeps its weights."""

    def tensors(self) -> dict[str, Tensor]:
        """The state to save."""

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `tensors` gave."""

    def evaluate(self, step: int) -> dict[str, float]:
        """Measure the run after `step` steps, and leave pictures; may return nothing."""


@dataclass(frozen=True)
class Report:
    """Where a run stands after one step."""

    step: int
    total: int
    images: int
    metrics: dict[str, float]
    evaluation: dict[str, float]
    seconds: float
    images_per_second: float
    skipped: int
    notes: list[str] = field(default_factory=list)

    @property
    def seconds_left(self) -> float:
        """Estimated from the rate so far; nan before there is one."""
        if not self.images_per_second:
            return math.nan
        return (self.total - self.step) * self.images / self.step / self.images_per_second


@dataclass(frozen=True)
class Cadence:
    """How often a run measures (in steps) and saves (in seconds)."""

    evaluate_steps: int
    log_steps: int = 10
    checkpoint_seconds: float = 60.0


def train(
    task: Task,
    total: int,
    run: Path,
    cadence: Cadence,
    should_stop: Callable[[], bool] = lambda: False,
    world: World | None = None,
) -> Iterator[Report]:
    """Train `task` for `total` steps in folder `run`, from its newest intact checkpoint if any.

    Yields a Report per step. Stops early, saved, once `should_stop()` is true in any process of
    `world`; the main one measures, logs and saves, and all read the checkpoint. Raises GsdError:
    exit 6 when the loss stays non-finite, exit 2 when another process trains in `run`.
    """
    world = world or World()
    with exclusive(run) if world.main else nullcontext():
        store = CheckpointStore(run / "checkpoints")
        checkpoint, damaged = store.latest()
        step, skipped, seen_seconds = 0, 0, 0.0
        notes = [f"damaged checkpoint skipped: {path}" for path in damaged]
        if checkpoint is not None:
            task.load(checkpoint.tensors)
            step, skipped = checkpoint.step, checkpoint.state["skipped"]
            seen_seconds = checkpoint.state["seconds"]
            notes.append(f"resumed at step {step}")
        world.wait()  # all have read it before anything is written
        log = MetricsLog(run / "metrics.jsonl", step) if world.main else None
        bad, started, first = 0, time.monotonic(), step
        last_save = started

        def save() -> None:
            elapsed = seen_seconds + time.monotonic() - started
            store.save(step, task.tensors(), {"skipped": skipped, "seconds": elapsed})

        if step == 0 and log is not None:
            log.append({"step": 0, "images": 0, **task.evaluate(0)})
        while step < total:
            metrics = task.step(step)
            step += 1
            finite = all(math.isfinite(v) for k, v in metrics.items() if "loss" in k)
            bad, skipped = (0, skipped) if finite else (bad + 1, skipped + 1)
            if bad >= MAX_BAD_STEPS:
                raise GsdError(
                    f"training diverged: {bad} steps in a row were not finite",
                    hint=f"the last good state is in {store.folder}; lower --lr or --alpha",
                    code=ExitCode.DIVERGED,
                )
            now = time.monotonic()
            evaluation: dict[str, float] = {}
            if log is not None and (step % cadence.evaluate_steps == 0 or step == total):
                evaluation = task.evaluate(step)
            if log is not None and (evaluation or step % cadence.log_steps == 0):
                row = {"step": step, "images": step * task.batch_size, "skipped": skipped}
                log.append({**row, **metrics, **evaluation})
                notes += review(log.rows) if evaluation else []
            stopping = world.any(should_stop())
            # a checkpoint of a state in doubt would be resumed: save only after a good step
            due = now - last_save > cadence.checkpoint_seconds or step == total or stopping
            if due and bad == 0 and world.main:
                save()
                last_save = now
            yield Report(
                step=step,
                total=total,
                images=step * task.batch_size,
                metrics=metrics,
                evaluation=evaluation,
                seconds=seen_seconds + now - started,
                images_per_second=(step - first) * task.batch_size / max(now - started, 1e-9),
                skipped=skipped,
                notes=notes,
            )
            notes = []
            if stopping:
                return


class MetricsLog:
    """metrics.jsonl: one JSON object a line; rows past the resumed step are dropped."""

    def __init__(self, path: Path, resumed_step: int):
        self.path = path
        self.rows = [row for row in read_metrics(path) if row["step"] <= resumed_step] if resumed_step else []
        with atomic_file(path) as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in self.rows), encoding="utf-8")

    def append(self, row: dict[str, Any]) -> None:
        """Add one row."""
        row = {k: _number(v) for k, v in row.items()}
        self.rows.append(row)
        with storage_errors(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, allow_nan=False) + "\n")


def _number(value: Any) -> Any:
    # JSON has no NaN
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl; a torn last line is left out, a missing file is empty."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return [row for row in rows if isinstance(row, dict) and isinstance(row.get("step"), int)]


class exclusive:  # noqa: N801 - reads as a statement: with exclusive(run)
    """Hold a run folder for one process. Raises GsdError (exit 2) when another holds it."""

    def __init__(self, run: Path):
        with storage_errors(run):
            run.mkdir(parents=True, exist_ok=True)
        self.run = run
        self.lock = FileLock(run / ".lock")

    def __enter__(self) -> None:
        try:
            self.lock.acquire(timeout=0)
        except Timeout:
            raise GsdError(
                f"another gsd process is working in {self.run}",
                hint="wait for it, or choose another folder with -o",
                code=ExitCode.USAGE,
            ) from None

    def __exit__(self, *exc: object) -> None:
        self.lock.release()


def ema_decay(batch: int, images_seen: int, half_life: float, ramp: float = 0.05) -> float:
    """beta = 0.5^(batch / h), h = min(half_life, ramp * images_seen), all in images (EDM)."""
    h = min(half_life, ramp * images_seen)
    return 0.5 ** (batch / h) if h > 0 else 0.0


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, beta: float) -> None:
    """average <- beta average + (1 - beta) model, parameters and buffers alike."""
    pairs = zip(average.state_dict().values(), model.state_dict().values(), strict=True)
    mine, theirs = map(list, zip(*((a, b) for a, b in pairs if a.is_floating_point()), strict=True))
    torch._foreach_lerp_(mine, theirs, 1 - beta)


def trapezoid(step: int, total: int, warmup: int, decay: float) -> float:
    """Learning-rate factor: linear warm-up, flat, linear to zero over the last `decay` share.

    Flat in the middle so that a run can be lengthened from a checkpoint before the decay
    (Hagele et al. 2024, "Scaling laws and compute-optimal training beyond fixed durations").
    """
    up = (step + 1) / warmup if step < warmup else 1.0
    tail = decay * total
    down = (total - step) / tail if tail and step > total - tail else 1.0
    return min(up, down)
