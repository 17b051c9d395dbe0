"""Assembles the six subcommands; turns an error into a message and an exit code, once."""

from __future__ import annotations

import importlib
import os
import shlex
import sys
from collections.abc import Callable
from typing import Any

import typer
from pydantic import BaseModel

from gsd_cli import options as models
from gsd_cli.console import Console, Result
from gsd_cli.errors import ExitCode, GsdError
from gsd_cli.interrupts import StopRequest
from gsd_cli.launch import rank
from gsd_cli.resolve import Resolved, field_names, resolve
from gsd_cli.signature import with_signature
from gsd_cli.table import Table
from gsd_cli.versions import gsd_version

COMMANDS: dict[str, type[models.Common]] = {
    "prepare": models.PrepareOptions,
    "distill": models.DistillOptions,
    "sample": models.SampleOptions,
    "interpolate": models.InterpolateOptions,
    "edit": models.EditOptions,
    "bench": models.BenchOptions,
}

EXAMPLES: dict[str, tuple[str, str]] = {
    "prepare": ("gsd prepare fashion-mnist -o fashion.zip", "gsd prepare photos/ --size 32 --fit-teacher small"),
    "distill": (
        "gsd distill --teacher ddpm-fashion --preset quick",
        "gsd distill --teacher ddpm-cifar10 -o runs/cifar",
    ),
    "sample": ("gsd sample -N 16 -o grid.png", "gsd sample --seeds 0-9999 -o - --format tar | tar x -C images"),
    "interpolate": ("gsd interpolate a.png b.png -o strip.png", "gsd interpolate seed:1 seed:2 seed:3 -o walk.gif"),
    "edit": ("gsd edit photo.png --direction pc0 --strength 2", "gsd edit seed:4 --direction pc1 --range=-3:3:7"),
    "bench": ("gsd bench --compare msa", "gsd bench --compare msa,ddim-50 --report report/"),
}  # fmt: skip

_current: Console | None = None


def build_app() -> typer.Typer:
    """The typer application; importing this imports nothing heavy."""
    app = typer.Typer(
        name="gsd",
        help="Turn a pretrained diffusion model into a one-step generator with a latent space you can walk.",
        context_settings={"help_option_names": ["-h", "--help"]},
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
    )

    @app.callback()
    def main_options(
        version: bool = typer.Option(False, "--version", is_eager=True, help="Print the version.", callback=_version),
    ) -> None:
        """Turn a pretrained diffusion model into a one-step generator with a latent space you can walk."""

    for name, model in COMMANDS.items():
        app.command(name, help=_help(name, model))(with_signature(_command(name, model), model))
    return app


def _help(name: str, model: type[BaseModel]) -> str:
    first, second = EXAMPLES[name]
    return f"{(model.__doc__ or '').strip()}\n\n[dim]$[/] {first}\n\n[dim]$[/] {second}"


def _version(value: bool) -> None:
    if value:
        typer.echo(f"gsd {gsd_version()}")
        raise typer.Exit


def _command(name: str, model: type[models.Common]) -> Callable[..., None]:
    def command(*, config: str | None = None, dry_run: bool | None = None, **given: Any) -> None:
        global _current
        used = {k.removesuffix("_"): v for k, v in given.items() if v not in (None, [])}
        _current = Console(quiet=bool(used.get("quiet")))
        resolved = resolve(name, model, used, COMMANDS, config)
        options = resolved.options
        # of several processes that a launcher started, the first one speaks
        silent = rank() != 0
        console = Console(quiet=options.quiet or silent, verbose=options.verbose, as_json=options.json_)
        console.claim_stdout()
        _current = console
        if dry_run:
            _dry_run(console, name, resolved)
            return
        stop = StopRequest()
        stop.resume = shlex.join(["gsd", *sys.argv[1:]])
        stop.install()
        module = importlib.import_module(f"gsd_cli.commands.{name}")
        result: Result = module.run(options, console, stop)
        if silent:
            return
        console.finish(name, result, options.model_dump(mode="json", by_alias=True))

    return command


def _dry_run(console: Console, name: str, resolved: Resolved[models.Common]) -> None:
    """Options with their origins, and what would be written."""
    values = resolved.options.model_dump(mode="json", by_alias=True)
    plan = importlib.import_module(f"gsd_cli.commands.{name}").plan(resolved.options)
    rows = [[public, str(values[public]), resolved.origins[public]] for public in field_names(type(resolved.options))]
    console.show(Table(f"gsd {name} (dry run)", ["option", "value", "from"], rows, plan))
    if console.as_json:
        console.finish(name, Result(metrics={"origins": resolved.origins, "plan": plan}), values)
    else:
        console.write_lines([*(f"{k} = {v}  # {o}" for k, v, o in rows), *(f"# {line}" for line in plan)])


def main() -> int:
    """Run gsd; returns the exit code."""
    try:
        build_app()()
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else int(bool(done.code))
    except GsdError as error:
        _report(error)
        return error.code
    except BrokenPipeError:
        return ExitCode.DONE
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except Exception as error:
        if os.environ.get("GSD_DEBUG"):
            raise
        _report(_unexpected(error))
        return _unexpected(error).code
    return ExitCode.DONE


def _report(error: GsdError) -> None:
    if os.environ.get("GSD_DEBUG"):
        import traceback

        traceback.print_exception(error)
    (_current or Console()).fail(error)


def _unexpected(error: Exception) -> GsdError:
    first = (str(error).splitlines() or [""])[0][:300]
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "out of memory" in first.lower():
        return GsdError(f"out of memory: {first}", hint="use a smaller --batch-size", code=ExitCode.DEVICE)
    return GsdError(
        f"{type(error).__name__}: {first}",
        hint="this is a bug in gsd; GSD_DEBUG=1 shows where",
        code=ExitCode.UNEXPECTED,
    )
