"""Checkpoints written in a thread, while steps run."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Any

from torch import Tensor

from gsd_cli.core.training.checkpoint import CheckpointStore, host_copies


class Saver:
    """Writes a store's checkpoints one after the other; leaving it as a context waits for the last.

    What a checkpoint promises is the store's: it is there whole or not at all, whenever the process dies. An error
    in the thread is raised by the next `check`, `save` or `wait`. seconds: what the last one took in all; None
    before there was one.
    """

    def __init__(self, store: CheckpointStore):
        self.store = store
        self.seconds: float | None = None
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def __enter__(self) -> Saver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.wait()
        elif self._thread is not None:  # an error is on its way already
            self._thread.join()

    def save(self, step: int, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Copy `tensors` to the host now, and begin to write them once the checkpoint before is written."""
        self.wait()
        begun = time.monotonic()
        copies = host_copies(tensors)

        def write() -> None:
            try:
                self.store.write(step, copies, state)
            except BaseException as error:  # raised where somebody can hear it
                self._error = error
            self.seconds = time.monotonic() - begun

        self._thread = threading.Thread(target=write, name="checkpoint")
        self._thread.start()

    def check(self) -> None:
        """Raise what went wrong in the thread, if anything did."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def wait(self) -> None:
        """Until nothing is being written."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()
