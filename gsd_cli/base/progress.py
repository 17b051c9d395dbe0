"""Progress of long work: silent, as lines for a pipe, or as a moving bar or panel on a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from types import TracebackType
from typing import Any

PLAIN_INTERVAL = 10.0
"""Seconds between progress lines when stderr is not a terminal."""


class Progress:
    """Silent progress, the base of the two others. Each update calls `poll`, which may raise to stop the work."""

    def __init__(self, what: str, total: int | None):
        self.what, self.total, self.done, self.note = what, total, 0, ""
        self.facts: dict[str, str] = {}
        self.activity = ""
        self.poll: Callable[[], None] = lambda: None

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def update(
        self, done: int, total: int | None = None, note: str | None = None, facts: Mapping[str, str] | None = None
    ) -> None:
        """Report `done` of `total`, with a short note next to the bar, or facts in a panel around it."""
        self.poll()
        self.done = done
        self.total = total if total is not None else self.total
        self.note = note if note is not None else self.note
        self.facts = dict(facts or self.facts)

    def doing(self, activity: str) -> None:
        """Show what is done at the moment, where that is not the counted work; an empty text ends it."""
        self.activity = activity

    def advance(self, count: int = 1) -> None:
        """Report that `count` more are done."""
        self.update(self.done + count)


class RichProgress(Progress):
    """A moving bar; once there are facts, a panel with the bar and the facts."""

    def __init__(self, what: str, total: int | None, console: Any):
        super().__init__(what, total)
        from rich.live import Live
        from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        self._bars = Bars(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[count]}"),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[note]}", style="dim", markup=False),
            console=console,
        )
        self._task = self._bars.add_task(what, total=total, note="", count="")
        self._live = Live(get_renderable=self._draw, console=console, transient=True, refresh_per_second=8)

    def __enter__(self) -> Progress:
        self._live.start()
        return self

    def __exit__(self, *exc: Any) -> None:
        self._live.stop()

    def update(
        self, done: int, total: int | None = None, note: str | None = None, facts: Mapping[str, str] | None = None
    ) -> None:
        """See Progress."""
        super().update(done, total, note, facts)
        self._show()

    def doing(self, activity: str) -> None:
        """See Progress."""
        super().doing(activity)
        self._show()

    def _show(self) -> None:
        shown = self.activity or ("" if self.facts else self.note)
        count = f"{self.done}/{self.total}" if self.total else ""
        self._bars.update(self._task, completed=self.done, total=self.total, note=shown, count=count)

    def _draw(self) -> Any:
        if not self.facts:
            return self._bars
        from rich.console import Group
        from rich.panel import Panel
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 2, 0, 1))
        for name, value in self.facts.items():
            table.add_row(Text(name, style="dim"), Text(value, overflow="fold"))
        return Panel(Group(self._bars, table), expand=False, border_style="dim")


class PlainProgress(Progress):
    """A line every PLAIN_INTERVAL seconds."""

    def __init__(self, what: str, total: int | None, say: Callable[[str], None]):
        super().__init__(what, total)
        self._say = say
        self._last = time.monotonic()
        self._first: tuple[float, int] | None = None

    def update(
        self, done: int, total: int | None = None, note: str | None = None, facts: Mapping[str, str] | None = None
    ) -> None:
        """See Progress."""
        super().update(done, total, note, facts)
        now = time.monotonic()
        self._first = self._first or (now, done)
        if now - self._last >= PLAIN_INTERVAL:
            self._print(now, self.note, self._estimate_time_left(now))

    def doing(self, activity: str) -> None:
        """See Progress: a line too, where the last is old enough."""
        super().doing(activity)
        now = time.monotonic()
        if activity and now - self._last >= PLAIN_INTERVAL:
            self._print(now, activity)

    def _print(self, now: float, *facts: str) -> None:
        self._last = now
        of = f"/{self.total}" if self.total else ""
        self._say(f"{self.what}: {', '.join(fact for fact in (f'{self.done}{of}', *facts) if fact)}")

    def _estimate_time_left(self, now: float) -> str:
        """The time left, at the rate since the first update; empty if it is unknown."""
        seconds, done = (now - self._first[0], self.done - self._first[1]) if self._first else (0.0, 0)
        if not self.total or done <= 0:
            return ""
        return f"{timedelta(seconds=round(seconds * (self.total - self.done) / done))} left"
