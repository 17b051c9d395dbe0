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


@dataclass(frozen=True)
class Entry:
    """A contender while it is measured: its row, which the metrics fill, and what the looks saw of its images."""

    contender: Contender
    row: Row
    seen: Seen


@dataclass(frozen=True)
class Metric:
    """One name of `--metrics`. Every field but the name may be left out.

    measure: puts the figures of one contender into its row. measure_together: the same for all contenders at once,
    where they share the machine's conditions. needs, looks: what `Context` loads, and what sees the images. columns:
    of the tables, or a function of the rows and the name of the first Frechet distance. protocol: by title how the
    figures were taken. real: the same figures of real images, and whose. caution: what to warn of before measuring.
    table: a table next to the paper's two; None where nothing was measured.
    """

    name: str
    measure: Callable[[Context, Entry], None] | None = None
    measure_together: Callable[[Context, Sequence[Entry]], None] | None = None
    needs: frozenset[Need] = frozenset()
    looks: Callable[[Context], Sequence[Look]] | None = None
    columns: Sequence[Column] | Callable[[Sequence[Row], str], Sequence[Column]] = ()
    protocol: Callable[[Context], Mapping[str, str]] = lambda context: {}
    real: Callable[[Context], tuple[dict[str, float], str]] | None = None
    caution: Callable[[Context], str | None] = lambda context: None
    table: Callable[[Sequence[Row]], Table | None] = lambda rows: None

    def columns_of(self, rows: Sequence[Row], figure: str) -> Sequence[Column]:
        """The columns for these rows."""
        return self.columns(rows, figure) if callable(self.columns) else self.columns
