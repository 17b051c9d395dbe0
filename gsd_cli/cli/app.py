"""Assembles the six subcommands; turns an error into a message and an exit code, once.

Help, completion and the version come from plain data: pydantic is loaded to check values, torch to work.
"""

from __future__ import annotations

import errno
import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand, TyperGroup

from gsd_cli.base.console import Console, Result
from gsd_cli.base.errors import ExitCode, GsdError, UsageError, out_of_memory
from gsd_cli.base.launcher import process_age, rank
from gsd_cli.base.session import Session
from gsd_cli.base.signals import StopRequest
from gsd_cli.base.storage import set_output_options
from gsd_cli.base.text import did_you_mean
from gsd_cli.cli.examples import EXAMPLES, START
from gsd_cli.cli.flags import MODELS, Command, commands
from gsd_cli.cli.help import show_help, show_overview
from gsd_cli.cli.parser import with_signature
from gsd_cli.cli.preflight import list_teachers
from gsd_cli.cli.subcommands import SUBCOMMANDS

if TYPE_CHECKING:
    from gsd_cli.cli.config import Resolved
    from gsd_cli.options import Common

SUMMARY = "Turn a pretrained diffusion model into a one-step generator with a latent space you can walk."

_current: Console | None = None


class _Verbatim:
    """Typer would load pydantic to turn text into text; values are checked later, in `resolve`."""

    def coerce(self, value: Any, **_: Any) -> Any:
        return list(value) if isinstance(value, tuple) else value


class _Light:
    """A typer command whose parameters stay text, and whose switches have no metavar."""

    def get_params(self, ctx: Any) -> list[Any]:
        found: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for param in found:
            param._runtime_param = _Verbatim()
            if getattr(param, "is_flag", False):
                param.metavar = ""
        return found


class _Subcommand(_Light, TyperCommand):
    """One subcommand with all its flags; its help is ours, since typer's leaves the text a third of the width."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        name = ctx.info_name
        usage = " ".join([ctx.command_path, *self.collect_usage_pieces(ctx)])
        usage = usage.replace("[[", "[").replace("]]", "]")  # a metavar has its own
        show_help(commands()[name], EXAMPLES[name], usage)


class _Subcommands(_Light, TyperGroup):
    """Builds the flags of a subcommand when it is called; its name and summary are enough for the list."""

    def get_params(self, ctx: Any) -> list[Any]:
        found = super().get_params(ctx)
        for param in found:
            param.callback = _COMPLETION.get(param.name, param.callback)
        return found

    def format_help(self, ctx: Any, formatter: Any) -> None:
        show_overview(commands(), SUMMARY, START)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[0] in self.commands:
            self.commands[args[0]] = _whole(commands()[args[0]])
        return super().resolve_command(ctx, args)


def build_app() -> typer.Typer:
    """The typer application; importing this imports nothing heavy."""
    app = _typer(cls=_Subcommands, name="gsd", help=SUMMARY, add_completion=True)

    @app.callback()
    def main_options(
        version: bool = typer.Option(False, "--version", is_eager=True, help="Print the version.", callback=_version),
    ) -> None:
        """The options of gsd itself."""

    for command in commands().values():
        app.command(command.name, help=command.summary)(lambda: None)
    return app


def _typer(**more: Any) -> typer.Typer:
    settings = {"help_option_names": ["-h", "--help"]}
    return typer.Typer(context_settings=settings, pretty_exceptions_enable=False, rich_markup_mode="rich", **more)


def _whole(command: Command) -> Any:
    alone = _typer(add_completion=False)
    # unknown options are collected, to be named together with every other problem
    settings = {"ignore_unknown_options": True, "allow_extra_args": True}
    decorate = alone.command(command.name, cls=_Subcommand, help=_help(command), context_settings=settings)
    decorate(with_signature(_command(command), command))
    return typer.main.get_command(alone)


def _help(command: Command) -> str:
    first, second = (line.replace("[", r"\[") for line in EXAMPLES[command.name])
    return f"{command.summary}\n\n[dim]$[/] {first}\n[dim]$[/] {second}"


def _version(value: bool) -> None:
    if value:
        from gsd_cli.base.versions import gsd_version

        typer.echo(f"gsd {gsd_version()}")
        raise typer.Exit


def _show_completion(ctx: Any, param: Any, value: Any) -> None:
    if value and not ctx.resilient_parsing:
        from gsd_cli.cli import completion_scripts as shells

        typer.echo(shells.SCRIPTS[shells.current_shell()], nl=False)
        raise typer.Exit


def _install_completion(ctx: Any, param: Any, value: Any) -> None:
    if value and not ctx.resilient_parsing:
        from gsd_cli.cli import completion_scripts as shells

        shell = shells.current_shell()
        changed = shells.install(shell)
        Console().say(
            f"completion for {shell} {'works from its next start on' if changed else 'was installed already'}"
        )
        for path in changed:
            typer.echo(path)
        raise typer.Exit


_COMPLETION = {"show_completion": _show_completion, "install_completion": _install_completion}
"""In the place of typer's own, whose scripts do not complete after `--teacher=`."""


def _command(command: Command) -> Callable[..., None]:
    def run(*, ctx: typer.Context, config: str | None = None, dry_run: bool | None = None, **given: Any) -> None:
        global _current
        # bench writes nothing but a report and what it keeps in the cache
        set_output_options(" or ".join(f.short or f.name for f in command.flags if f.public in ("output", "report")))
        used = {k.removesuffix("_"): v for k, v in given.items() if v not in (None, [])}
        _current = Console(quiet=bool(used.get("quiet")))
        resolved = _resolve(command, used, ctx.args, config)
        options = resolved.options
        # of several processes that a launcher started, the first one speaks
        silent = rank() != 0
        console = Console(quiet=options.quiet or silent, verbose=options.verbose, as_json=options.json_)
        console.claim_stdout()
        _current = console
        if dry_run:
            _dry_run(console, command.name, resolved)
            return
        result = _work(command.name, options, console)
        if not silent:
            console.finish(command.name, result, options.model_dump(mode="json", by_alias=True))
            if options.show:
                _show(console, result)

    return run


def _resolve(command: Command, used: dict[str, Any], extra: Sequence[str], config: str | None) -> Resolved[Common]:
    # looking for plugins of pydantic reads the metadata of all that is installed
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    from gsd_cli.cli.config import resolve

    unknown = _unknown(command, used, extra)
    return resolve(command.name, MODELS[command.name], used, MODELS, config, unknown)


def _unknown(command: Command, used: dict[str, Any], extra: Sequence[str]) -> list[str]:
    """Options that do not exist, wherever the parser put them; else arguments that are too many."""
    arguments = [used[one.public] for one in command.flags if one.argument and one.public in used]
    words = [word for found in arguments for word in (found if isinstance(found, list) else [found])]
    wrong = [word.partition("=")[0] for word in [*words, *extra] if word.startswith("-") and word != "-"]
    if wrong and "--" not in sys.argv:
        known = {name.lstrip("-"): name for name in ["--config", "--dry-run", *(one.name for one in command.flags)]}
        return [f"no such option: {word}{did_you_mean(word.lstrip('-'), known, known)}" for word in wrong]
    return [f"unexpected argument: {word}" for word in extra]


def _work(name: str, options: Any, console: Console) -> Result:
    """Refuse what can be refused at once, say what is going to happen, then load torch and do it."""
    stop = StopRequest()
    stop.begun -= process_age()
    stop.resume = shlex.join(["gsd", *sys.argv[1:]])
    stop.report = console.fail
    stop.install()
    command = SUBCOMMANDS[name]
    command.check(options)
    if name == "distill" and options.list_teachers:
        return list_teachers()
    for line in command.plan(options):
        console.say(line)  # the first, at once: torch takes seconds to load
        break
    return command.runner()(options, Session.start(options, console, stop))


def _show(console: Console, result: Result) -> None:
    from gsd_cli.catalogue.run_layout import image_to_show

    path = image_to_show(result.outputs)
    if path is None:
        console.warn("--show: no picture was written to a file")
    else:
        console.picture(path)


def _dry_run(console: Console, name: str, resolved: Resolved[Common]) -> None:
    """Options with their origins, as a file that --config takes, and what would be written."""
    values = resolved.options.model_dump(mode="json", by_alias=True)
    plan = list(SUBCOMMANDS[name].plan(resolved.options))
    if console.as_json:
        console.finish(name, Result(metrics={"origins": resolved.origins, "plan": plan}), values)
        return
    unset = [public for public in resolved.origins if values[public] is None]
    lines = [f"{k} = {json.dumps(values[k])}  # {origin}" for k, origin in resolved.origins.items() if k not in unset]
    lines += [f"# {public} is not set" for public in unset]
    console.write_lines([*lines, "", *(f"# {line}" for line in plan)])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run gsd; returns the exit code."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        code = build_app()(words or ["--help"], prog_name="gsd", standalone_mode=False)
        return (code or ExitCode.DONE) if words else ExitCode.USAGE
    except SystemExit as done:
        if isinstance(done.__context__, BrokenPipeError):  # typer's answer to a reader that went away is 1
            return ExitCode.DONE
        return done.code if isinstance(done.code, int) else int(bool(done.code))
    except GsdError as error:
        _report(error)
        return error.code
    except BrokenPipeError:
        return ExitCode.DONE
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except Exception as error:
        if hasattr(error, "format_message"):  # the parser's own: an option without its value, no such command
            return _report(_misspelt(error, words))
        if os.environ.get("GSD_DEBUG"):
            raise
        return _report(_unexpected(error))


def _misspelt(error: Any, words: Sequence[str]) -> UsageError:
    named = next((word for word in words if word in EXAMPLES), None)
    text = str(error.format_message()).rstrip(".")
    return UsageError([text[:1].lower() + text[1:]], hint=f"gsd {named} --help" if named else "gsd --help")


def _report(error: GsdError) -> int:
    if os.environ.get("GSD_DEBUG"):
        import traceback

        traceback.print_exception(error)
    (_current or Console()).fail(error)
    return error.code


def _unexpected(error: Exception) -> GsdError:
    first = (str(error).splitlines() or [""])[0][:300]
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return GsdError(f"no room to write: {first}", hint="free some space", code=ExitCode.STORAGE)
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        name = str(error.filename)
        return UsageError(
            [f"no file can have this name: {name[:40]}... ({len(name)} characters)"], hint="a shorter path"
        )
    if out_of_memory(error):
        return GsdError(f"out of memory: {first}", hint="use a smaller --batch-size", code=ExitCode.DEVICE)
    return GsdError(
        f"{type(error).__name__}: {first}",
        hint="this is a bug in gsd; GSD_DEBUG=1 shows where",
        code=ExitCode.UNEXPECTED,
    )
