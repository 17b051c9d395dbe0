"""Prints help: panels with names on the left and explanations on the right, readable at 80 columns."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from gsd_cli.cli.flags import Command, Flag

if TYPE_CHECKING:
    from rich.console import Console
    from rich.panel import Panel
    from rich.table import Table

MAX_LEFT_WIDTH = 34
"""The greatest width of the left side. A longer value goes below its flag."""
RUN_FLAGS = (
    Flag("config", "Read options from a TOML file; - for stdin.", "Common", "FILE"),
    Flag("dry_run", "Show the options and where each came from; write nothing.", "Common", "", boolean=True,
         short="-n", default="off"),
    Flag("help", "Show this message and exit.", "Common", "", boolean=True, short="-h", default="off"),
)  # fmt: skip
"""Flags of every subcommand that are not in its option model."""


OWN_FLAGS = (
    Flag("version", "Print the version.", "Options", "", boolean=True, default="off"),
    Flag("install_completion", "Install completion for the current shell.", "Options", "", boolean=True, default="off"),
    Flag("show_completion", "Print that shell's completion script.", "Options", "", boolean=True, default="off"),
    RUN_FLAGS[-1],
)
"""Flags of gsd itself."""


def show_overview(commands: Mapping[str, Command], summary: str, examples: Sequence[str]) -> None:
    """Print the help of gsd itself on stdout, subcommands first."""
    from rich.table import Table
    from rich.text import Text

    console = _print_usage("gsd COMMAND [OPTIONS]", summary, examples)
    grid = Table.grid(padding=(0, 2, 0, 0))
    for command in commands.values():
        grid.add_row(Text(command.name, "cyan bold"), Text(command.summary))
    console.print(_build_panel("Commands", grid))
    console.print(_build_panel("Options", _build_grid(OWN_FLAGS)))
    console.print(Text("gsd COMMAND --help shows the options of a command.", "dim"))


def show_help(command: Command, examples: tuple[str, str], usage: str) -> None:
    """Print the help of `command` on stdout. rich chooses colours and width."""
    console = _print_usage(usage, "\n\n".join(filter(None, (command.summary, command.details))), examples)
    for name, flags in group_by_panel(command).items():
        console.print(_build_panel(name, _build_grid(flags)))


def _print_usage(usage: str, summary: str, examples: Sequence[str]) -> Console:
    """Print usage, summary and examples on stdout; returns the console, for the rest of the help."""
    from rich.console import Console
    from rich.text import Text

    console = Console(file=sys.stdout, highlight=False)
    console.print(Text.assemble(("Usage: ", "yellow bold"), (usage, "bold")), "", summary, "", sep="\n")
    for example in examples:
        console.print(Text.assemble(("  $ ", "dim"), example), soft_wrap=True)
    console.print()
    return console


def _build_panel(name: str, content: Table) -> Panel:
    from rich.panel import Panel

    return Panel(content, title=name, title_align="left", border_style="dim")


def _build_grid(flags: Sequence[Flag]) -> Table:
    """Flags and values on the left, explanations on the right."""
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(width=min(MAX_LEFT_WIDTH, max(len(_format_left(one)) for one in flags)), overflow="fold")
    grid.add_column(ratio=1)
    for one in flags:
        words = [(_join_names(one), "cyan bold"), (one.metavar, "")]
        left = Text(" ").join(Text(word, style) for word, style in words if word)
        grid.add_row(left, Text.assemble(one.help, (_format_default(one), "dim")))
    return grid


def group_by_panel(command: Command) -> dict[str, list[Flag]]:
    """Flags by panel, in the order of the models, then the flags of every subcommand."""
    found: dict[str, list[Flag]] = {}
    for one in (*command.flags, *RUN_FLAGS):
        found.setdefault(one.panel, []).append(one)
    return found


def _join_names(one: Flag) -> str:
    """The spellings of a flag, as in `-o, --output`; empty for an argument."""
    if one.argument:
        return ""
    names = sorted(one.names, key=len)
    return ", ".join(names)


def _format_left(one: Flag) -> str:
    return f"{_join_names(one)} {one.metavar}".strip()


def _format_default(one: Flag) -> str:
    return "" if one.default in (None, "off") else f" [{one.default}]"
