"""A table drawn for a terminal: whole where it is wide enough, else in blocks of columns, never cut short."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from gsd_cli.base.table import Table

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as Drawn


def fitted(table: Table, console: Console) -> Iterator[Drawn]:
    """The table as one block or several as wide as `console` at most; each begins with the first column."""
    rest, first = list(range(1, len(table.columns))), True
    unbounded = console.options.update(max_width=10_000)  # measures stop at the console's width otherwise
    while rest or first:
        count = len(rest)
        while (
            count > 1 and console.measure(_drawn(table, [0, *rest[:count]]), options=unbounded).maximum > console.width
        ):
            count -= 1
        yield _drawn(table, [0, *rest[:count]], table.title if first else None)
        rest, first = rest[count:], False


def _drawn(table: Table, columns: Sequence[int], title: str | None = None) -> Drawn:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table as Drawn

    drawn = Drawn(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for i in columns:
        numbers = i > 0 and all(row[i][:1] in "0123456789-+." for row in table.rows)
        drawn.add_column(table.columns[i], justify="right" if numbers else "left", overflow="fold")
    for row in table.rows:
        drawn.add_row(*(row[i] for i in columns))
    return drawn
