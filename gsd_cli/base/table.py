"""Tables of results: plain data, written into reports or drawn on a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable


@dataclass(frozen=True)
class Table:
    """Columns and rows of text, with notes below; the first column names the row.

    records: the same figures for programs, one number per field, all with the same keys; None where there is none.
    """

    title: str
    columns: list[str]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)
    records: list[dict[str, str | float | None]] = field(default_factory=list)


def fit_to_width(table: Table, console: Console) -> Iterator[RichTable]:
    """Split the table into blocks of columns no wider than `console`; nothing is cut. Each repeats the first column."""
    rest, first = list(range(1, len(table.columns))), True
    unbounded = console.options.update(max_width=10_000)  # measures stop at the console's width otherwise

    def width(columns: Sequence[int]) -> int:
        return console.measure(_rich_table(table, columns), options=unbounded).maximum

    while rest or first:
        count = len(rest)
        while count > 1 and width([0, *rest[:count]]) > console.width:
            count -= 1
        yield _rich_table(table, [0, *rest[:count]], table.title if first else None)
        rest, first = rest[count:], False


def _rich_table(table: Table, columns: Sequence[int], title: str | None = None) -> RichTable:
    from rich.box import SIMPLE_HEAD  # rich takes a tenth of a second to load
    from rich.table import Table as RichTable

    drawn = RichTable(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for i in columns:
        numbers = i > 0 and all(row[i][:1] in "0123456789-+." for row in table.rows)
        drawn.add_column(table.columns[i], justify="right" if numbers else "left", overflow="fold")
    for row in table.rows:
        drawn.add_row(*(row[i] for i in columns))
    return drawn
