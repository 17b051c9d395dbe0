"""Help: two columns, names and what they do, in panels; readable at 80 columns."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from gsd_cli.cli.flags import Command, Flag

if TYPE_CHECKING:
    from rich.console import Console
    from rich.panel import Panel
    from rich.table import Table

WIDEST = 34
"""Columns of flags and values, at most; a longer value stands below its flag."""
RUN_FLAGS = (
    Flag("config", "Read options from a TOML file; - for stdin.", "Common", "FILE"),
    Flag("dry_run", "Show the options and where each came from; write nothing.", "Common", "", boolean=True,
         short="-n", default="off"),
    Flag("help", "Show this message and exit.", "Common", "", boolean=True, short="-h", default="off"),
)  # fmt: skip
"""Flags that belong to the running of a command, not to its options."""


OWN_FLAGS = (
    Flag("version", "Print the version.", "Options", "", boolean=True, default="off"),
    Flag("install_completion", "Install completion for the current shell.", "Options", "", boolean=True, default="off"),
    Flag("show_completion", "Print that shell's completion script.", "Options", "", boolean=True, default="off"),
    RUN_FLAGS[-1],
)
"""Flags of gsd itself."""


def show_overview(commands: Mapping[str, Command], summary: str, examples: Sequence[str]) -> None:
    """Print the help of gsd itself on stdout: the subcommands first."""
    from rich.table import Table
    from rich.text import Text

    console = _opened("gsd COMMAND [OPTIONS]", summary, examples)
    grid = Table.grid(padding=(0, 2, 0, 0))
    for command in commands.values():
        grid.add_row(Text(command.name, "cyan bold"), Text(command.summary))
    console.print(_panel("Commands", grid))
    console.print(_panel("Options", _grid(OWN_FLAGS)))
    console.print(Text("gsd COMMAND --help says more of each.", "dim"))


def show_help(command: Command, examples: tuple[str, str], usage: str) -> None:
    """Print the help of `command` on stdout; rich decides on colours and width."""
    console = _opened(usage, command.summary, examples)
    for name, flags in panels(command).items():
        console.print(_panel(name, _grid(flags)))


def _opened(usage: str, summary: str, examples: Sequence[str]) -> Console:
    """A console on stdout with how a command is called, what it does, and examples."""
    from rich.console import Console
    from rich.text import Text

    console = Console(file=sys.stdout, highlight=False)
    console.print(Text.assemble(("Usage: ", "yellow bold"), (usage, "bold")), "", summary, "", sep="\n")
    for example in examples:
        console.print(Text.assemble(("  $ ", "dim"), example), soft_wrap=True)
    console.print()
    return console


def _panel(name: str, content: Table) -> Panel:
    from rich.panel import Panel

    return Panel(content, title=name, title_align="left", border_style="dim")


def _grid(flags: Sequence[Flag]) -> Table:
    """Flags and values on the left, what they do on the right."""
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(width=min(WIDEST, max(len(_left(one)) for one in flags)), overflow="fold")
    grid.add_column(ratio=1)
    for one in flags:
        words = [(_spelled(one), "cyan bold"), (one.metavar, "")]
        left = Text(" ").join(Text(word, style) for word, style in words if word)
        grid.add_row(left, Text.assemble(one.help, (_default(one), "dim")))
    return grid


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
