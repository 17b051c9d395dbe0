"""The help of a subcommand: two columns, flags and what they do, in panels; readable at 80 columns."""

from __future__ import annotations

import sys

from gsd_cli.flags import Command, Flag

WIDEST = 34
"""Columns of flags and values, at most; a longer value stands below its flag."""
RUN_FLAGS = (
    Flag("config", "Read options from a TOML file; - for stdin.", "Common", "FILE"),
    Flag("dry_run", "Show the options and where each came from; write nothing.", "Common", "", boolean=True,
         short="-n", default="off"),
    Flag("help", "Show this message and exit.", "Common", "", boolean=True, short="-h", default="off"),
)  # fmt: skip
"""Flags that belong to the running of a command, not to its options."""


def show_help(command: Command, examples: tuple[str, str], usage: str) -> None:
    """Print the help of `command` on stdout; rich decides on colours and width."""
    from rich.console import Console
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    console = Console(file=sys.stdout, highlight=False)
    console.print(Text.assemble(("Usage: ", "yellow bold"), (usage, "bold")), "", command.summary, "", sep="\n")
    for example in examples:
        console.print(Text.assemble(("  $ ", "dim"), example), soft_wrap=True)
    console.print()
    for name, flags in panels(command).items():
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column(width=min(WIDEST, max(len(_left(one)) for one in flags)), overflow="fold")
        grid.add_column(ratio=1)
        for one in flags:
            words = [(_spelled(one), "cyan bold"), (one.metavar, "")]
            left = Text(" ").join(Text(word, style) for word, style in words if word)
            grid.add_row(left, Text.assemble(one.help, (_default(one), "dim")))
        console.print(Panel(grid, title=name, title_align="left", border_style="dim"))


def panels(command: Command) -> dict[str, list[Flag]]:
    """Flags by panel, in the order of the models; those of running last."""
    found: dict[str, list[Flag]] = {}
    for one in (*command.flags, *RUN_FLAGS):
        found.setdefault(one.panel, []).append(one)
    return found


def _spelled(one: Flag) -> str:
    """-o, --output; the switch back where there is one; an argument is its value."""
    if one.argument:
        return ""
    names = sorted(one.names, key=len)
    return ", ".join(names)


def _left(one: Flag) -> str:
    return f"{_spelled(one)} {one.metavar}".strip()


def _default(one: Flag) -> str:
    return "" if one.default in (None, "off") else f" [{one.default}]"
