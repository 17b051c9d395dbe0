"""The clock of a run with `--minutes`: how many steps fit, when it must end, how much time evaluations may take."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

UNSETTLED = 2**40
"""The length of a run whose length is not known yet: larger than any step number."""
WARM_UP, MEASURED = 2, 6
"""Steps of a session that are not timed, and timed steps that are needed before a length is settled."""
SETTLE = 0.03
"""Share of the session's time after which its length is settled."""
TOLERANCE = 0.05
"""A length that is off by more than this share of itself is settled again."""
MEMORY = 0.05
"""Time constant of the mean step time, as a share of the session's time; and the least time between settlements."""
LEAN = 0.98
"""Share of the time left that a length is settled for: small changes of the rate then do not cut the run's end."""
SPARE, MARGIN, LEAST = 1.5, 0.01, 1.0
"""The time kept for the end: measured costs times SPARE, a share of the session, and seconds."""
LEAVING, LONGEST = 0.3, 10.0
"""Leaving Python is supposed to take this share of the time until the session could begin, seconds at most."""
UNKNOWN = {"evaluation": 0.05, "checkpoint": 0.02, "export": 0.03}
"""Shares of the session that the parts of the end are supposed to take until they are measured."""


@dataclass
class Allowance:
    """Work other than steps that may take `share` of their time: what it took so far, and the last time."""

    share: float = math.inf
    spent: float = 0.0
    last: float = 0.0

    def affords(self, step_seconds: float) -> bool:
        """Whether it may be done once more, if it takes as long as the last time."""
        return math.isinf(self.share) or self.spent + self.last <= self.share * step_seconds

    def took(self, seconds: float, *, counted: bool = True) -> None:
        """Record that it was done; `counted`: as a part of the share."""
        self.last = seconds
        self.spent += seconds if counted else 0.0


class Pace:
    """A session of a run that must be over, evaluated, saved and exported, after `seconds`.

    `settles`: the length is chosen to fit the time. It is chosen once the step rate is known (SETTLE). Nothing depends
    on the length before that: the learning rate is constant and the isometric term is off. From then on the run equals
    one started with `--steps LENGTH`, bit for bit. If the rate changes by more than TOLERANCE, the length is chosen
    again. A learning rate that followed the clock would make runs unrepeatable. A resumed session starts with the rate
    of the previous session. Without `settles` the length is given, and the session may end before it.

    on_length: called with (step, length) in every process whenever a length is settled. started: when the session
    began, by time.monotonic.
    """

    def __init__(
        self, seconds: float, started: float, *, settles: bool,
        on_length: Callable[[int, int], None] = lambda step, length: None,
        clock: Callable[[], float] = time.monotonic,
    ):  # fmt: skip
        self.seconds, self.end, self.settles, self.on_length = seconds, started + seconds, settles, on_length
        self._clock, self._started = clock, clock()
        self._leaving = min(LONGEST, LEAVING * max(0.0, self._started - started))
        self.costs: dict[str, float] = {}
        self.step_seconds = 0.0
        self._steps, self._timed, self._settled_at = 0, 0, -math.inf
        self.length = UNSETTLED

    def know(self, state: dict[str, float]) -> None:
        """Take over what an earlier session measured, as `known` gave it: `step_seconds` and costs."""
        self.step_seconds = state.get("step_seconds", 0.0)
        self.costs |= {name: state[name] for name in UNKNOWN if name in state}

    def known(self) -> dict[str, float]:
        """The measurements for the next session."""
        return self.costs | ({"step_seconds": self.step_seconds} if self.step_seconds else {})

    def took(self, what: str, seconds: float) -> None:
        """Record the seconds of an evaluation, a checkpoint or an export; the longest counts."""
        self.costs[what] = max(seconds, self.costs.get(what, 0.0))

    def stepped(self, seconds: float, steps: int = 1) -> None:
        """Record the seconds of steps, with the caller's work after each; a session's first steps do not count."""
        self._steps += steps
        if self._steps <= WARM_UP:
            return
        # at first a plain mean, then one that forgets: the isometric term begins later, machines get busy
        self._timed += steps
        share = max(steps / self._timed, 1 - math.exp(-seconds / (MEMORY * self.seconds)))
        self.step_seconds += share * (seconds / steps - self.step_seconds)

    @property
    def reserve(self) -> float:
        """Seconds reserved for the last evaluation, checkpoint and two exports (the newest and the best generator)."""
        cost = {name: self.costs.get(name, share * self.seconds) for name, share in UNKNOWN.items()}
        needed = cost["evaluation"] + cost["checkpoint"] + 2 * cost["export"]
        return SPARE * needed + MARGIN * self.seconds + self._leaving + LEAST

    @property
    def warm(self) -> bool:
        """Whether the warm-up steps are done."""
        return self._steps >= WARM_UP

    @property
    def over(self) -> bool:
        """Whether another step would take time that the end needs."""
        return self._clock() + self.step_seconds + self.reserve >= self.end

    def settle(self, step: int, overhead: float) -> int | None:
        """The run's length, if it must be settled now, after `step` steps; else None.

        overhead: seconds that evaluations and checkpoints will take per second of steps.
        """
        if not self.settles or not self._ready():
            return None
        left = max(0.0, self.end - self.reserve - self._clock())
        length = step + max(1, int(LEAN * left / self.step_seconds / (1 + overhead)) - 1)
        if self.length != UNSETTLED and abs(length - self.length) <= TOLERANCE * self.length:
            return None
        return length

    def follow(self, step: int, length: int) -> None:
        """Adopt a length that was settled, here or in the main process."""
        self.length, self._settled_at = length, self._clock()
        self.on_length(step, length)

    def _ready(self) -> bool:
        if not self.step_seconds:
            return False
        now = self._clock()
        if self.length != UNSETTLED:
            return self._timed >= MEASURED and now - self._settled_at >= MEMORY * self.seconds
        # a resumed session knows its rate from the start
        return self._timed == 0 or (self._timed >= MEASURED and now - self._started >= SETTLE * self.seconds)
