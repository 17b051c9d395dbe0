"""A metric of `gsd bench`: what it needs, how it is measured, its columns and its protocol, in one record."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from gsd_cli.base.intervals import Interval, interval_of_error, interval_of_share, overlap
from gsd_cli.base.table import Table
from gsd_cli.base.text import format_number
from gsd_cli.comparison.contenders import Contender, Row
from gsd_cli.comparison.context import Context, Need
from gsd_cli.comparison.images import Look, Seen

Better = Literal["", "lower", "higher", "real"]
"""What a reader wishes of a figure; real: near that of real images."""
ARROWS: Mapping[Better, str] = {"": "", "lower": " ↓", "higher": " ↑", "real": ""}

RECORD = (
    "model", "calls", "parameters", "figure", "features", "value", "low", "high", "interval", "error", "n", "unit",
    "better",
)  # fmt: skip
"""The fields of a figure's record, the same for every table of figures."""


@dataclass(frozen=True)
class Column:
    """A column of the tables.

    key: the figure's key in `figures`; spread: the key of its standard error, or the two keys of an interval;
    share_of: the key of the number of cases that the figure is a share of, if it is one; compared: whether a ratio
    to each baseline makes sense; figures: where in a row the figure is; place: columns stand in this order, those
    of one place in the order of the metrics. better: what a reader wishes for. unit: of the value, shown by `show`.
    name: of the figure in records, if it is not the title. features: what the figure is measured in; count: the
    number of cases behind it. spread_is: what the interval holds.
    """

    key: str
    title: str
    format: str = ".3f"
    spread: tuple[str, ...] = ()
    compared: bool = True
    figures: Callable[[Row], Mapping[str, float]] = lambda row: row.figures
    place: int = 0
    better: Better = ""
    share_of: str = ""
    unit: str = ""
    show: Callable[[float], str] | None = None
    name: str = ""
    features: Callable[[Row], str] = lambda row: ""
    count: Callable[[Row], float | None] = lambda row: row.samples
    spread_is: str = "95 %"

    @property
    def heading(self) -> str:
        """The title, with an arrow that says whether lower or higher is better."""
        return self.title + ARROWS[self.better]

    def value(self, row: Row) -> float | None:
        """The figure of a row; None where it was not measured."""
        return self.figures(row).get(self.key)

    def resolved(self, one: Row, other: Row) -> bool:
        """Whether the 95 % intervals of two rows do not overlap; True where one has none."""
        first, second = self.interval(one), self.interval(other)
        return first is None or second is None or not overlap(first, second)

    def cell(self, row: Row) -> str:
        """The figure of a row as text, with its standard error or half its 95 % interval."""
        value, error, interval = self.value(row), self.error(row), self.interval(row)
        if value is None:
            return "-"
        text = self.text(value)
        if self.show is not None:
            return text if interval is None else f"{text} ({self.text(interval[0])} to {self.text(interval[1])})"
        if error is None and interval is None:
            return text
        half = error if error is not None else (interval[1] - interval[0]) / 2 if interval else 0.0
        return f"{text} ± {format_number(half, 2)}"

    def text(self, value: float) -> str:
        """A value of this column as text, without an exponent."""
        if self.show is not None:
            return self.show(value)
        if self.format.endswith("g"):
            return format_number(value, int(self.format[1:-1]))
        return f"{value:{self.format}}"

    def error(self, row: Row) -> float | None:
        """The standard error of a row's figure, where it was measured."""
        return self.figures(row).get(self.spread[0]) if len(self.spread) == 1 else None

    def interval(self, row: Row) -> Interval | None:
        """The interval of a row's figure: the measured one, else 95 % by its standard error or as a share of cases."""
        figures, value, error = self.figures(row), self.value(row), self.error(row)
        if value is None or not math.isfinite(value):
            return None
        if len(self.spread) == 2 and all(key in figures for key in self.spread):
            return figures[self.spread[0]], figures[self.spread[1]]
        if error is not None:
            return interval_of_error(value, error)
        return interval_of_share(value, cases) if (cases := figures.get(self.share_of)) else None

    def record(self, row: Row) -> dict[str, str | float | None]:
        """The figure of a row for programs: one number per field."""
        low, high = self.interval(row) or (None, None)
        values = (
            row.name, row.calls, row.parameters, self.name or self.title, self.features(row) or None, self.value(row),
            low, high, None if low is None else self.spread_is, self.error(row), self.count(row), self.unit or None,
            self.better or None,
        )  # fmt: skip
        return dict(zip(RECORD, values, strict=True))


def distance_figures(name: str) -> Callable[[Row], Mapping[str, float]]:
    """The figures of one Frechet distance of a row, by the distance's name."""
    return lambda row: row.distances.get(name, {})


@dataclass(frozen=True)
class Entry:
    """A contender while it is measured: its row, which the metrics fill, and what the looks saw of its images."""

    contender: Contender
    row: Row
    seen: Seen


@dataclass(frozen=True)
class Metric:
    """One name of `--metrics`. Every field but the name may be left out."""

    name: str
    measure: Callable[[Context, Entry], None] | None = None
    """Puts the figures of one contender into its row."""
    measure_together: Callable[[Context, Sequence[Entry]], None] | None = None
    """The same for all contenders at once, for figures that depend on the state of the machine."""
    needs: frozenset[Need] = frozenset()
    """What `Context` loads."""
    looks: Callable[[Context], Sequence[Look]] | None = None
    """What sees the images."""
    columns: Sequence[Column] | Callable[[Sequence[Row], str], Sequence[Column]] = ()
    """The columns of the tables, or a function of the rows and of the name of the first Frechet distance."""
    protocol: Callable[[Context], Mapping[str, str]] = lambda context: {}
    """How the figures were measured, by title."""
    real: Callable[[Context], tuple[dict[str, float], str]] | None = None
    """The figures of real images, and the name of these images."""
    caution: Callable[[Context], str | None] = lambda context: None
    """A warning before anything is measured."""
    table: Callable[[Sequence[Row]], Table | None] = lambda rows: None
    """A table of its own; None where nothing was measured."""

    def columns_of(self, rows: Sequence[Row], figure: str) -> Sequence[Column]:
        """The columns for these rows."""
        return self.columns(rows, figure) if callable(self.columns) else self.columns
