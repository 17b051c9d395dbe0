"""A metric of `gsd bench`: what it needs, how it is measured, its columns and its protocol, in one record."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from gsd_cli.base.table import Table
from gsd_cli.comparison.contenders import Contender, Row
from gsd_cli.comparison.context import Context, Need
from gsd_cli.comparison.images import Look, Seen


@dataclass(frozen=True)
class Column:
    """A column of the tables.

    key: the figure's key in `figures`; spread: the key of its plus-or-minus, or the two keys of an interval, of which
    half the width is shown; compared: whether a ratio to each baseline makes sense; figures: where in a row the figure
    is; place: columns stand in this order, those of one place in the order of the metrics.
    """

    key: str
    title: str
    format: str = ".3f"
    spread: tuple[str, ...] = ()
    compared: bool = True
    figures: Callable[[Row], Mapping[str, float]] = lambda row: row.figures
    place: int = 0

    def value(self, row: Row) -> float | None:
        """The figure of a row; None where it was not measured."""
        return self.figures(row).get(self.key)

    def interval(self, row: Row) -> tuple[float, float] | None:
        """The 95 % interval of a row's figure; None where it has no spread."""
        figures = self.figures(row)
        value, spreads = figures.get(self.key), [figures[key] for key in self.spread if key in figures]
        if value is None or not spreads:
            return None
        if len(spreads) == 2:
            return spreads[0], spreads[1]
        return value - 1.96 * spreads[0], value + 1.96 * spreads[0]

    def resolved(self, one: Row, other: Row) -> bool:
        """Whether the 95 % intervals of two rows do not overlap; True where one has none."""
        first, second = self.interval(one), self.interval(other)
        return first is None or second is None or first[1] <= second[0] or second[1] <= first[0]

    def cell(self, row: Row) -> str:
        """The figure of a row as text, with its spread."""
        figures = self.figures(row)
        if (value := figures.get(self.key)) is None:
            return "-"
        text = f"{value:{self.format}}"
        spreads = [figures[key] for key in self.spread if key in figures]
        if not spreads:
            return text
        spread = spreads[0] if len(spreads) == 1 else (spreads[1] - spreads[0]) / 2
        return f"{text} ± {spread:.2g}"


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
