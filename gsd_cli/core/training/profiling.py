"""A profile of training steps: which operators take the time, kernel launches, waits for the device."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gsd_cli.base.atomic import atomic_file
from gsd_cli.compute.device import synchronize
from gsd_cli.core.training.loop import Task
from gsd_cli.core.training.report import Metrics

WARM_UP, PROFILED = 5, 3
"""Steps of a session before the profile, and in it."""
ROWS = 30
LAUNCHES = (
    "cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx", "cudaGraphLaunch",
    "cudaMemcpyAsync", "cudaMemsetAsync",
)  # fmt: skip
"""Calls of the CUDA runtime or driver that put work on the device."""
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")
READ = "aten::_local_scalar_dense"
"""The operator behind `.item()`: on a device each call waits."""


@dataclass(frozen=True)
class Profile:
    """Means per step. launches: calls that put work on a CUDA device, elsewhere dispatched aten operators; host_waits:
    calls that wait for the device (0 on a CPU); reads: numbers read from tensors; seconds: under the profiler, which
    slows down; table: the top operators, as text."""

    steps: int
    launches: float
    host_waits: float
    reads: float
    seconds: float
    table: str

    def summary(self) -> str:
        """The means in words, then the table."""
        return (
            f"{self.steps} steps, {self.seconds:.4g} s each under the profiler\n"
            f"launches a step: {self.launches:.1f}\nhost waits a step: {self.host_waits:.1f}\n"
            f"numbers read a step: {self.reads:.1f}\n\n{self.table}\n"
        )


class Profiler:
    """Profiles single calls, so that nothing between them is counted."""

    def __init__(self, device: torch.device, trace: Path | None = None):
        self.device, self.trace = device, trace
        self.counts = {"launches": 0, "host_waits": 0, "reads": 0}
        self.steps, self.seconds, self.table = 0, 0.0, ""

    def run(self, call: Callable[[], Any]) -> Any:
        """Profile one call and return its result; the trace is of the last call."""
        from torch.profiler import ProfilerActivity, profile

        cuda = self.device.type == "cuda"
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
        synchronize(self.device)
        with profile(activities=activities) as found:
            begun = time.perf_counter()
            result = call()
            synchronize(self.device)
            self.seconds += time.perf_counter() - begun
        events = found.key_averages()
        for event in events:
            launched = event.key in LAUNCHES if cuda else event.key.startswith("aten::")
            self.counts["launches"] += launched * event.count
            self.counts["host_waits"] += (event.key in WAITS) * event.count
            self.counts["reads"] += (event.key == READ) * event.count
        # the wait at the end is ours, and the profiler's own
        self.counts["host_waits"] -= 2 * cuda
        self.steps += 1
        key = "self_device_time_total" if cuda else "self_cpu_time_total"
        self.table = str(events.table(sort_by=key, row_limit=ROWS, max_name_column_width=60))
        if self.trace is not None:
            with atomic_file(self.trace) as temporary:
                found.export_chrome_trace(str(temporary))
        return result

    def profile(self) -> Profile:
        """The means so far."""
        steps = max(1, self.steps)
        launches, waits, reads = (max(0, count) / steps for count in self.counts.values())
        return Profile(self.steps, launches, waits, reads, self.seconds / steps, self.table)


class ProfiledTask:
    """A task whose steps number WARM_UP to WARM_UP + PROFILED of this session are profiled.

    `folder` gets trace.json.gz, of the last of them (chrome://tracing and Perfetto open it), profile.txt and
    profile.json; `say` gets one line about it. The steps themselves are those of `task`.
    """

    def __init__(self, task: Task, device: torch.device, folder: Path, say: Callable[[str], None]):
        self.task, self.device, self.folder, self.say = task, device, folder, say
        self.batch_size = task.batch_size
        self._profiler = Profiler(device, folder / "trace.json.gz")
        self._done = 0

    @property
    def rehearsing(self) -> bool:
        """See `Task`."""
        return getattr(self.task, "rehearsing", False)

    @property
    def notes(self) -> list[str]:
        """See `Task`."""
        return getattr(self.task, "notes", [])

    @property
    def sharded(self) -> bool:
        """See `Task`."""
        return getattr(self.task, "sharded", False)

    def step(self, step: int) -> Metrics:
        """Do step number `step`."""
        self._done += 1
        if not WARM_UP < self._done <= WARM_UP + PROFILED:
            return self.task.step(step)
        metrics: Metrics = self._profiler.run(lambda: self.task.step(step))
        if self._done == WARM_UP + PROFILED:
            self._write()
        return metrics

    def _write(self) -> None:
        found = self._profiler.profile()
        with atomic_file(self.folder / "profile.txt") as temporary:
            temporary.write_text(found.summary(), encoding="utf-8")
        figures = {key: value for key, value in vars(found).items() if key != "table"}
        with atomic_file(self.folder / "profile.json") as temporary:
            temporary.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
        counts = f"{found.launches:.0f} operators"
        if self.device.type == "cuda":
            counts = f"{found.launches:.0f} launches and {found.host_waits:.0f} host waits"
        self.say(f"profile: {counts} per step: {self.folder / 'profile.txt'}")

    def tensors(self) -> dict[str, Tensor]:
        """The state to save."""
        return self.task.tensors()

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `tensors` gave."""
        self.task.load(tensors)

    def evaluate(self, step: int) -> dict[str, float]:
        """Measure the run after `step` steps."""
        return self.task.evaluate(step)
