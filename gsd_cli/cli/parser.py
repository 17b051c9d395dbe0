"""The command line as a Typer application. Everything that depends on Typer's private parts is in this module.

Typer offers no public way to keep a value as text, to build a subcommand only when it is called, or to print another
help. tests/cli/test_parser.py checks each private part that is used, and names it when a release of Typer drops it.
"""

from __future__ import annotations

import inspect
import keyword
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from gsd_cli.base.console import Console
from gsd_cli.base.errors import ExitCode, UsageError
from gsd_cli.base.versions import gsd_version
from gsd_cli.cli import completion_scripts
from gsd_cli.cli.completion import choose_completer
from gsd_cli.cli.examples import EXAMPLES, START
from gsd_cli.cli.flags import Command, Flag, commands
from gsd_cli.cli.help import RUN_FLAGS, show_help, show_overview

SUMMARY = "Turn a pretrained diffusion model into a one-step generator with a latent space you can walk."


@dataclass(frozen=True)
class Invocation:
    """One call of a subcommand.

    given: the values of the flags in the call, by public name, as the user typed them. extra: words that are no known
    option or argument. config: the file of `--config`.
    """

    command: Command
    given: Mapping[str, Any] = field(default_factory=dict)
    extra: Sequence[str] = ()
    config: str | None = None
    dry_run: bool = False


Handler = Callable[[Invocation], None]
ELSEWHERE = {
    "generate": "sample", "train": "distill", "finetune": "distill", "refine": "distill --refine",
    "walk": "interpolate", "morph": "interpolate", "invert": "edit",
    "explore": "edit --explore", "directions": "edit --list",
    "eval": "bench", "evaluate": "bench", "benchmark": "bench", "fid": "bench --metrics fd", "ablate": "bench --ablate",
    "encode": "prepare", "dataset": "prepare", "export": "sample --export", "onnx": "sample --export",
}  # fmt: skip
"""What other tools call their commands, and the command here."""


def parse_and_run(words: Sequence[str], handle: Handler) -> int:
    """Parse `words`, call `handle` with the subcommand in them, and return the exit code.

    Raises UsageError for a mistake that the parser finds, BrokenPipeError if the reader of stdout has gone away, and
    whatever `handle` raises.
    """
    try:
        code = build_parser(handle)(list(words), prog_name="gsd", standalone_mode=False)
    except SystemExit as ended:
        if isinstance(ended.__context__, BrokenPipeError):  # Typer turns it into exit code 1
            raise ended.__context__ from None
        return ended.code if isinstance(ended.code, int) else int(bool(ended.code))
    except Exception as error:
        if hasattr(error, "format_message"):  # Typer's own errors: a missing value, an unknown subcommand
            raise _usage_error(error, words) from error
        raise
    return code or ExitCode.DONE


def build_parser(handle: Handler) -> Any:
    """The Typer command of gsd; it calls `handle` with the subcommand that the user typed."""
    app = _create_typer(cls=_Subcommands, name="gsd", help=SUMMARY, add_completion=True)

    @app.callback()
    def main_options(
        version: bool = typer.Option(
            False, "--version", is_eager=True, help="Print the version.", callback=_print_version
        ),
    ) -> None:
        """The options of gsd itself."""

    for command in commands().values():
        app.command(command.name, help=command.summary)(lambda: None)
    group: Any = typer.main.get_command(app)
    group.handle = handle
    return group


# -- Typer's classes, changed -------------------------------------------------------------------


class _TextValue:
    """Replaces Typer's conversion of values, which loads pydantic. `resolve` checks the values later."""

    def coerce(self, value: Any, **_: Any) -> Any:
        return list(value) if isinstance(value, tuple) else value


class _TextParameters:
    """For Typer's command classes: values stay text, and switches have no metavar."""

    def get_params(self, ctx: Any) -> list[Any]:
        parameters: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for parameter in parameters:
            parameter._runtime_param = _TextValue()
            if getattr(parameter, "is_flag", False):
                parameter.metavar = ""
        return parameters


class _Subcommand(_TextParameters, TyperCommand):
    """One subcommand with all its flags. Typer's help would leave a third of the width to the text."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        name = ctx.info_name
        usage = " ".join([ctx.command_path, *self.collect_usage_pieces(ctx)])
        usage = usage.replace("[[", "[").replace("]]", "]")  # our metavars of optional arguments have brackets already
        show_help(commands()[name], EXAMPLES[name], usage)


class _Subcommands(_TextParameters, TyperGroup):
    """All subcommands by name and summary. The flags of one are built when it is called."""

    handle: Handler

    def get_params(self, ctx: Any) -> list[Any]:
        parameters = super().get_params(ctx)
        for parameter in parameters:
            parameter.callback = _COMPLETION_CALLBACKS.get(parameter.name, parameter.callback)
        return parameters

    def format_help(self, ctx: Any, formatter: Any) -> None:
        show_overview(commands(), SUMMARY, START)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[0] in self.commands:
            self.commands[args[0]] = build_subcommand(commands()[args[0]], self.handle)
        elif args[0] in ELSEWHERE:
            raise UsageError([f"no such command {args[0]!r}"], hint=f"that is gsd {ELSEWHERE[args[0]]}")
        return super().resolve_command(ctx, args)


def build_subcommand(command: Command, handle: Handler) -> Any:
    """A Typer command with one parameter per flag, plus --config and --dry-run."""
    app = _create_typer(add_completion=False)
    # unknown options are collected, so that one message names them together with all other mistakes
    settings = {"ignore_unknown_options": True, "allow_extra_args": True}
    decorate = app.command(command.name, cls=_Subcommand, help=command.summary, context_settings=settings)

    def call(*, ctx: typer.Context, config: str | None = None, dry_run: bool | None = None, **values: Any) -> None:
        given = {name.removesuffix("_"): value for name, value in values.items() if value not in (None, [])}
        handle(Invocation(command, given, ctx.args, config, bool(dry_run)))

    decorate(with_signature(call, command))
    return typer.main.get_command(app)


def _create_typer(**more: Any) -> typer.Typer:
    settings = {"help_option_names": ["-h", "--help"]}
    return typer.Typer(context_settings=settings, pretty_exceptions_enable=False, rich_markup_mode="rich", **more)


# -- flags as parameters ------------------------------------------------------------------------


def with_signature(function: Callable[..., None], command: Command) -> Callable[..., None]:
    """Give `function(ctx, **values)` the signature that Typer reads: one parameter per flag.

    Each value arrives as the text that the user typed, or None. Typer ignores pydantic's constraints, so `resolve`
    checks all values at once.
    """
    context = inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    own = [one for one in RUN_FLAGS if one.public != "help"]  # Typer adds --help itself
    parameters = [context, *(_build_parameter(one) for one in (*command.flags, *own))]
    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    function.__annotations__ = {p.name: p.annotation for p in parameters}
    return function


def _build_parameter(one: Flag) -> inspect.Parameter:
    complete = choose_completer(one)
    if one.argument:
        kind: Any = list[str] if one.many else str
        option = typer.Argument(metavar=one.metavar, help=one.help, show_default=False, autocompletion=complete)
    else:
        kind = bool if one.boolean else list[str] if one.many else str
        option = typer.Option(
            *one.names,
            help=one.help + _format_default(one),
            rich_help_panel=one.panel,
            show_default=False,
            metavar=one.metavar,
            autocompletion=complete,
        )
    name = one.public + "_" * keyword.iskeyword(one.public)  # --class: `class` cannot name a parameter
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
    )


def _format_default(one: Flag) -> str:
    # Typer would put a default that is text into brackets
    return "" if one.default in (None, "off") else rf" [dim]\[{one.default}][/]"


# -- what gsd's own flags do --------------------------------------------------------------------


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"gsd {gsd_version()}")
        raise typer.Exit


def _show_completion(ctx: Any, param: Any, value: Any) -> None:
    if value and not ctx.resilient_parsing:
        typer.echo(completion_scripts.SCRIPTS[completion_scripts.detect_shell()], nl=False)
        raise typer.Exit


def _install_completion(ctx: Any, param: Any, value: Any) -> None:
    if value and not ctx.resilient_parsing:
        shell = completion_scripts.detect_shell()
        changed = completion_scripts.install_script(shell)
        Console().say(f"completion for {shell} {'works from its next start on' if changed else 'is installed already'}")
        for path in changed:
            typer.echo(path)
        raise typer.Exit


_COMPLETION_CALLBACKS = {"show_completion": _show_completion, "install_completion": _install_completion}
"""Replace Typer's callbacks, whose scripts do not complete after `--teacher=`."""


def _usage_error(error: Any, words: Sequence[str]) -> UsageError:
    """Typer's message, with the help of the subcommand in `words` as the hint."""
    name = next((word for word in words if word in EXAMPLES), None)
    text = str(error.format_message()).rstrip(".")
    return UsageError([text[:1].lower() + text[1:]], hint=f"gsd {name} --help" if name else "gsd --help")
