"""CUDA graphs: a step's kernels are recorded once and started together from then on.

A step of distillation starts thousands of kernels that take microseconds each. The host needs longer to start them
than the device to run them; a graph starts all of them at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch


class Recorder(Protocol):
    """Records work on a device, and repeats it."""

    def rehearse(self, work: Callable[[], Any]) -> Any:
        """Do the work as it will be recorded, unrecorded."""

    def record(self, work: Callable[[], Any]) -> Callable[[], Any]:
        """Record the work without doing it. Returns a function that does it and returns its results: the same tensors
        each time, whose values the next repetition changes."""


class CudaGraphs:
    """Records CUDA graphs on a stream of their own; all of them share their memory, so one runs at a time."""

    def __init__(self, device: torch.device):
        self.device = device
        self.stream = torch.cuda.Stream(device)
        self.pool = torch.cuda.graph_pool_handle()

    def rehearse(self, work: Callable[[], Any]) -> Any:
        """On the stream of recordings: what libraries set up per stream must be there before a recording."""
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):
            results = work()
        torch.cuda.current_stream(self.device).wait_stream(self.stream)
        return results

    def record(self, work: Callable[[], Any]) -> Callable[[], Any]:
        """See `Recorder`. Raises RuntimeError if something in it waits for the device, or copies to it."""
        graph = torch.cuda.CUDAGraph()
        # other threads copy to the host meanwhile: a checkpoint's, a data set's
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"):
            results = work()

        def repeat() -> Any:
            graph.replay()
            return results

        return repeat


def recorder_for(device: torch.device) -> Recorder | None:
    """What records work on this device; None where nothing does."""
    return CudaGraphs(device) if device.type == "cuda" else None
