"""A stand-in for CUDA graphs that runs anywhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Repeater:
    """Repeats what it records by doing it again, with the step that it was recorded in: whatever another step should
    change shows, unless a tensor or a tape brings it.

    variants: how many recordings there are; repeated: how often any was repeated; around: does a repetition.
    """

    def __init__(self) -> None:
        self.variants, self.repeated = 0, 0
        self.around: Callable[[Callable[[], Any]], Any] = lambda work: work()

    def rehearse(self, work: Callable[[], Any]) -> Any:
        """Do the work."""
        return work()

    def record(self, work: Callable[[], Any]) -> Callable[[], Any]:
        """Remember the work; the function that it returns does it."""
        self.variants += 1

        def repeat() -> Any:
            self.repeated += 1
            return self.around(work)

        return repeat
