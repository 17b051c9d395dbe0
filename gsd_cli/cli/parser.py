"""How a subcommand's flags become a typer command's signature."""

from __future__ import annotations

import inspect
import keyword
from collections.abc import Callable
from typing import Annotated, Any

import typer

from gsd_cli.cli.completion import completer
from gsd_cli.cli.flags import Command, Flag

RUN_PANEL = "Common"


def with_signature(function: Callable[..., None], command: Command) -> Callable[..., None]:
    """Give `function(ctx, **given)` one parameter per flag, plus --config and --dry-run.

    Every valued option reaches `function` as the text the user typed, or None: typer ignores
    pydantic's constraints, so validation happens once, in `resolve`.
    """
    context = inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    config = typer.Option(
        "--config", metavar="FILE", help="Read options from a TOML file; - for stdin.", rich_help_panel=RUN_PANEL
    )
    dry_run = typer.Option(
        "--dry-run",
        "-n",
        help="Show the options and where each came from; write nothing.",
        rich_help_panel=RUN_PANEL,
        show_default=False,
    )
    parameters = [context, *(_parameter(one) for one in command.flags)]
    parameters += [_make("config", str, config), _make("dry_run", bool, dry_run)]
    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    function.__annotations__ = {p.name: p.annotation for p in parameters}
    return function


def _make(name: str, kind: Any, option: Any) -> inspect.Parameter:
    name += "_" * keyword.iskeyword(name)  # --class: no parameter may be called so
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
    )


def _parameter(one: Flag) -> inspect.Parameter:
    complete = completer(one)
    if one.argument:
        kind: Any = list[str] if one.many else str
        argument = typer.Argument(metavar=one.metavar, help=one.help, show_default=False, autocompletion=complete)
        return _make(one.public, kind, argument)
    option = typer.Option(
        *one.names,
        help=one.help + _default(one),
        rich_help_panel=one.panel,
        show_default=False,
        metavar=one.metavar,
        autocompletion=complete,
    )
    return _make(one.public, bool if one.boolean else str, option)


def _default(one: Flag) -> str:
    # typer would put a default that is text in brackets of its own
    return "" if one.default in (None, "off") else rf" [dim]\[{one.default}][/]"
