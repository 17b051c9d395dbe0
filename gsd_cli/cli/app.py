"""Runs the subcommand that the user typed, and turns every error into a message and an exit code.

Help, completion and the version need only plain data. pydantic is loaded to check values, torch to do the work.
"""

from __future__ import annotations

import errno
import json
import os
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gsd_cli.base.console import Console, Result
from gsd_cli.base.cores import limit_threads
from gsd_cli.base.errors import ExitCode, GsdError, UsageError, lost_process, out_of_memory
from gsd_cli.base.launcher import process_age, process_count, rank
from gsd_cli.base.session import Session
from gsd_cli.base.signals import StopRequest
from gsd_cli.base.storage import set_output_options
from gsd_cli.base.text import did_you_mean
from gsd_cli.catalogue.run_layout import image_to_show
from gsd_cli.cli.flags import MODELS, Command
from gsd_cli.cli.parser import Invocation, parse_and_run
from gsd_cli.cli.subcommands import SUBCOMMANDS

if TYPE_CHECKING:
    from gsd_cli.cli.config import Resolved
    from gsd_cli.options import Common

_console: Console | None = None
"""The console of the command that runs; errors are printed on it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run gsd; returns the exit code."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        code = parse_and_run(words or ["--help"], run_subcommand)
        return code if words else ExitCode.USAGE
    except GsdError as error:
        return _report(error)
    except BrokenPipeError:
        return ExitCode.DONE
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except Exception as error:
        if os.environ.get("GSD_DEBUG"):
            raise
        return _report(_explain(error))


def run_subcommand(call: Invocation) -> None:
    """Check the options, run the subcommand, print its result. Raises GsdError."""
    global _console
    command = call.command
    # bench writes only a report and its own cache
    set_output_options(
        " or ".join(f.short or f.name for f in command.flags if f.public in ("output", "report", "explore"))
    )
    _console = Console(quiet=bool(call.given.get("quiet")))
    resolved = _resolve(call)
    options = resolved.options
    # of several processes that share the work, only the first one prints
    shared = SUBCOMMANDS[command.name].shares_work(options)
    silent = shared and rank() != 0
    console = Console(quiet=options.quiet or silent, verbose=options.verbose, as_json=options.json_)
    console.claim_stdout()
    _console = console
    if not shared and process_count() > 1:
        console.warn(
            f"{process_count()} processes were launched, by RANK and WORLD_SIZE in the environment, but gsd "
            f"{command.name} does not share its work: this one does all of it"
        )
    limit_threads(options.threads)  # before torch is loaded
    if call.dry_run:
        _print_dry_run(console, command.name, resolved)
        return
    result = execute(command.name, options, console)
    if not silent:
        console.finish(command.name, result, options.model_dump(mode="json", by_alias=True))
        if options.show:
            _show_image(console, result)


def execute(name: str, options: Any, console: Console) -> Result:
    """Refuse what needs no torch to refuse, print the first line of the plan, then load torch and do the work."""
    stop = StopRequest()
    stop.begun -= process_age()
    stop.resume = shlex.join(["gsd", *sys.argv[1:]])
    stop.report = console.fail
    stop.install()
    command = SUBCOMMANDS[name]
    command.check(options)
    for line in command.plan(options):
        console.say(line)  # only the first line: the others may load torch, which takes seconds
        break
    answer = command.answer(options, console)
    return answer if answer is not None else command.runner()(options, Session.start(options, console, stop))


def _resolve(call: Invocation) -> Resolved[Common]:
    # pydantic would read the metadata of all installed packages to look for plugins
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    from gsd_cli.cli.config import resolve

    name = call.command.name
    unknown = _describe_unknown(call.command, call.given, call.extra)
    return resolve(name, MODELS[name], call.given, MODELS, call.config, unknown)


def _describe_unknown(command: Command, given: Any, extra: Sequence[str]) -> list[str]:
    """One message per unknown option, also where the parser took one for an argument; else per extra argument."""
    arguments = [given[one.public] for one in command.flags if one.argument and one.public in given]
    words = [word for value in arguments for word in (value if isinstance(value, list) else [value])]
    wrong = [word.partition("=")[0] for word in [*words, *extra] if word.startswith("-") and word != "-"]
    if wrong and "--" not in sys.argv:
        known = {name.lstrip("-"): name for name in ["--config", "--dry-run", *(one.name for one in command.flags)]}
        return [f"no such option: {word}{did_you_mean(word.lstrip('-'), known, known)}" for word in wrong]
    return [f"unexpected argument: {word}" for word in extra]


def _show_image(console: Console, result: Result) -> None:
    path = image_to_show(result.outputs)
    if path is None:
        console.warn("--show: no image was written to a file")
    else:
        console.show_image(path)


def _print_dry_run(console: Console, name: str, resolved: Resolved[Common]) -> None:
    """Print the options with their origins, as a file for --config, and the plan."""
    values = resolved.options.model_dump(mode="json", by_alias=True)
    SUBCOMMANDS[name].check(resolved.options)  # a dry run refuses what the run would refuse
    plan = list(SUBCOMMANDS[name].plan(resolved.options))
    if console.as_json:
        console.finish(name, Result(metrics={"origins": resolved.origins, "plan": plan}), values)
        return
    unset = [public for public in resolved.origins if values[public] is None]
    # a value that follows by itself is a comment: in a file it would count as given, and contradict other options
    lines = [
        f"{'' if resolved.is_given(public) else '# '}{public} = {json.dumps(values[public])}  # {origin}"
        for public, origin in resolved.origins.items()
        if public not in unset
    ]
    lines += [f"# {public} is not set" for public in unset]
    console.write_lines([*lines, "", *(f"# {line}" for line in plan)])


# -- errors -------------------------------------------------------------------------------------


def _report(error: GsdError) -> int:
    """Print the error and return its exit code; with GSD_DEBUG, print the traceback first."""
    if os.environ.get("GSD_DEBUG"):
        import traceback

        traceback.print_exception(error)
    (_console or Console()).fail(error)
    return error.code


def _explain(error: Exception) -> GsdError:
    """The error as a GsdError with a hint: no space, a name that is too long, no memory, else a bug in gsd."""
    first = (str(error).splitlines() or [""])[0][:300]
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return GsdError(f"no space left to write: {first}", hint="free some space", code=ExitCode.STORAGE)
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        name = str(error.filename)
        return UsageError(
            [f"this name is too long for a file: {name[:40]}... ({len(name)} characters)"], hint="use a shorter path"
        )
    if out_of_memory(error):
        return GsdError(f"out of memory: {first}", hint="use a smaller --batch-size", code=ExitCode.DEVICE)
    if lost_process(error):
        return GsdError(
            f"another process of this run has ended: {first}",
            hint="its own message says why; the same command resumes the run",
            code=ExitCode.UNEXPECTED,
        )
    return GsdError(
        f"{type(error).__name__}: {first}",
        hint="this is a bug in gsd; GSD_DEBUG=1 shows where",
        code=ExitCode.UNEXPECTED,
    )
