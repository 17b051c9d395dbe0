"""What every training has in common: a loop that can be stopped, resumed and trusted.

A task supplies one step and its state; `train` drives it, keeps checkpoints and metrics, skips
non-finite steps, and yields a report after each step. Randomness is a function of (seed, step),
so a resumed run repeats an uninterrupted one bit for bit on a CPU.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from gsd_cli.core.checkpoint import CheckpointStore
from gsd_cli.core.review import review
from gsd_cli.core.world import World
from gsd_cli.errors import ExitCode, GsdError
from gsd_cli.locks import exclusive
from gsd_cli.paths import storage_errors
from gsd_cli.writing import atomic_file, sweep

Metrics = dict[str, float | Tensor]
"""The figures of one step: numbers, or tensors of no dimensions where reading them would wait for a device."""
MAX_BAD_STEPS = 20
"""Consecutive non-finite steps after which a run has diverged."""


class Task(Protocol):
    """One kind of training."""

    batch_size: int

    def step(self, step: int) -> Mapping[str, float | Tensor]:
        """Do step number `step` (from 0). Returns its metrics; a network whose update is not finite keeps its weights.
        A step counts as skipped where `skipped` among them is 1 or a `*loss*` is not finite."""

    def tensors(self) -> dict[str, Tensor]:
        """The state to save."""

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `tensors` gave."""

    def evaluate(self, step: int) -> dict[str, float]:
        """Measure the run after `step` steps, and leave pictures; may return nothing. Called in every process: the
        main one alone leaves pictures and returns figures."""


@dataclass(frozen=True)
class Report:
    """Where a run stands after one step.

    metrics: those of the newest step that was read: the last one on a CPU, elsewhere the last logged one.
    seconds: of all sessions; session_seconds: of this one, step_seconds of it in steps, the rest in
    evaluations, checkpoints and with the caller.
    """

    step: int
    total: int
    images: int
    metrics: dict[str, float]
    evaluation: dict[str, float]
    seconds: float
    images_per_second: float
    skipped: int
    session_seconds: float = 0.0
    step_seconds: float = 0.0
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

    def due(self, step: int) -> bool:
        """Whether figures are written after this many steps."""
        return step % self.log_steps == 0 or step % self.evaluate_steps == 0


class Unread:
    """The metrics of steps whose tensors nobody has read yet: all are fetched at once, in one wait for the device."""

    def __init__(self) -> None:
        self._steps: list[Mapping[str, float | Tensor]] = []

    def add(self, metrics: Mapping[str, float | Tensor]) -> None:
        """One step's metrics."""
        self._steps.append(metrics)

    @property
    def on_device(self) -> bool:
        """Whether reading would wait for a device."""
        return any(v.device.type != "cpu" for row in self._steps for v in row.values() if isinstance(v, Tensor))

    def read(self) -> list[dict[str, float]]:
        """The metrics added since the last call, as numbers."""
        tensors = [v.detach().float() for row in self._steps for v in row.values() if isinstance(v, Tensor)]
        numbers = iter(torch.stack(tensors).tolist() if tensors else ())
        rows = [
            {k: next(numbers) if isinstance(v, Tensor) else v for k, v in row.items()} for row in self._steps
        ]  # fmt: skip
        self._steps = []
        return rows


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
    `world`; they measure together, the main one logs and saves, and all read the checkpoint. Raises GsdError:
    exit 6 when the loss stays non-finite, exit 2 when another process trains in `run`.
    """
    world = world or World()
    with exclusive(run) if world.main else nullcontext():
        store = CheckpointStore(run / "checkpoints")
        count, notes = _restore(task, store, total)
        world.wait()  # all have read the checkpoint before anything is written
        log = MetricsLog(run / "metrics.jsonl", count.step) if world.main else None
        if count.step == 0:
            first = task.evaluate(0)
            if log is not None:
                log.append({"step": 0, "images": 0, **first})
        unread = Unread()
        while count.step < total:
            begun = time.monotonic()
            unread.add(task.step(count.step))
            count.step += 1
            if not unread.on_device or cadence.due(count.step) or count.step == total:
                count.read(unread.read(), store.folder)
            count.step_seconds += time.monotonic() - begun
            count.now = time.monotonic()
            # all processes: they share the images that are measured
            due = count.step % cadence.evaluate_steps == 0 or count.step == total
            evaluation = task.evaluate(count.step) if due else {}
            if log is not None:
                _log_step(log, task, count, evaluation, cadence)
                notes += review(log.rows) if evaluation else []
            stopping = world.any(should_stop())
            due = count.unsaved_seconds > cadence.checkpoint_seconds or count.step == total or stopping
            if due and world.main:
                count.read(unread.read(), store.folder)
                # a checkpoint of a state in doubt would be resumed: save only after a good step
                if count.bad == 0:
                    count.save(store, task)
            yield count.report(task.batch_size, evaluation, notes)
            notes = []
            if stopping:
                return


@dataclass
class _Count:
    """Where a run stands: steps done, steps skipped in all and in a row, and the clock.

    seconds_before: those of earlier sessions; step_seconds: this session's in steps; first: the step this
    session began at; now: when the last step was done; metrics: those of the last step that was read.
    """

    total: int
    step: int = 0
    skipped: int = 0
    bad: int = 0
    seconds_before: float = 0.0
    step_seconds: float = 0.0

    def __post_init__(self) -> None:
        self.metrics: dict[str, float] = {}
        self.first = self.step
        self.started = self.now = self.saved = time.monotonic()

    @property
    def unsaved_seconds(self) -> float:
        return self.now - self.saved

    def read(self, rows: list[dict[str, float]], folder: Path) -> None:
        """Take the metrics of some steps. Raises GsdError (exit 6) after too many in a row that were not finite."""
        for row in rows:
            skipped = row.pop("skipped", 0.0) > 0 or not all(math.isfinite(v) for k, v in row.items() if "loss" in k)
            self.bad = self.bad + 1 if skipped else 0
            self.skipped += skipped
            self.metrics = row
            if self.bad >= MAX_BAD_STEPS:
                raise GsdError(
                    f"training diverged: {self.bad} steps in a row were not finite",
                    hint=f"the last good state is in {folder}; lower --lr or --alpha",
                    code=ExitCode.DIVERGED,
                )

    def save(self, store: CheckpointStore, task: Task) -> None:
        elapsed = self.seconds_before + time.monotonic() - self.started
        store.save(self.step, task.tensors(), {"skipped": self.skipped, "seconds": elapsed})
        self.saved = self.now

    def report(self, batch: int, evaluation: dict[str, float], notes: list[str]) -> Report:
        seconds = self.now - self.started
        return Report(
            step=self.step,
            total=self.total,
            images=self.step * batch,
            metrics=self.metrics,
            evaluation=evaluation,
            seconds=self.seconds_before + seconds,
            images_per_second=(self.step - self.first) * batch / max(seconds, 1e-9),
            skipped=self.skipped,
            session_seconds=time.monotonic() - self.started,
            step_seconds=self.step_seconds,
            notes=notes,
        )


def _restore(task: Task, store: CheckpointStore, total: int) -> tuple[_Count, list[str]]:
    """Load the newest intact checkpoint into the task; where the run stands, and what to tell of it."""
    checkpoint, damaged = store.latest()
    notes = [f"damaged checkpoint skipped: {path}" for path in damaged]
    if checkpoint is None:
        return _Count(total), notes
    task.load(checkpoint.tensors)
    state = checkpoint.state
    count = _Count(total, checkpoint.step, state["skipped"], seconds_before=state["seconds"])
    return count, [*notes, f"resumed at step {checkpoint.step}"]


def _log_step(log: MetricsLog, task: Task, count: _Count, evaluation: dict[str, float], cadence: Cadence) -> None:
    """Write what is due at this step."""
    if evaluation or count.step % cadence.log_steps == 0:
        row = {"step": count.step, "images": count.step * task.batch_size, "skipped": count.skipped}
        log.append({**row, **count.metrics, **evaluation})


class MetricsLog:
    """metrics.jsonl: one JSON object a line; rows past the resumed step are dropped."""

    def __init__(self, path: Path, resumed_step: int):
        self.path = path
        self.rows = [row for row in read_metrics(path) if row["step"] <= resumed_step] if resumed_step else []
        sweep(path.parent)
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
        except (ValueError, RecursionError):
            continue
    return [row for row in rows if isinstance(row, dict) and isinstance(row.get("step"), int)]


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
