"""The private parts of Typer that cli/parser.py uses exist and behave as it needs, and the parser does its work."""

from __future__ import annotations

import inspect
import sys
from typing import Any

import pytest
import typer
from typer.core import TyperCommand, TyperGroup

from gsd_cli.base.errors import UsageError
from gsd_cli.cli.flags import commands
from gsd_cli.cli.parser import ELSEWHERE, Invocation, build_parser, build_subcommand, parse_and_run

RELEASE = f"typer {typer.__version__} does not fit gsd_cli/cli/parser.py:"


def calls(*words: str) -> list[Invocation]:
    """The invocations that a command line leads to."""
    found: list[Invocation] = []
    assert parse_and_run(words, found.append) == 0
    return found


# -- Typer's private parts ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "method", "parameters"),
    [
        (TyperCommand, "get_params", ["self", "ctx"]),
        (TyperCommand, "format_help", ["self", "ctx", "formatter"]),
        (TyperCommand, "collect_usage_pieces", ["self", "ctx"]),
        (TyperGroup, "get_params", ["self", "ctx"]),
        (TyperGroup, "format_help", ["self", "ctx", "formatter"]),
        (TyperGroup, "resolve_command", ["self", "ctx", "args"]),
    ],
)
def test_the_methods_that_are_overridden_exist(kind: type, method: str, parameters: list[str]) -> None:
    function = getattr(kind, method, None)
    assert function is not None, f"{RELEASE} {kind.__name__} has no {method}"
    found = list(inspect.signature(function).parameters)
    assert found == parameters, f"{RELEASE} {kind.__name__}.{method} takes {found}"


def test_get_command_gives_instances_of_the_given_classes() -> None:
    group, command = build_parser(lambda _: None), build_subcommand(commands()["sample"], lambda _: None)
    assert isinstance(group, TyperGroup), f"{RELEASE} typer.main.get_command makes {type(group)}"
    assert isinstance(command, TyperCommand), f"{RELEASE} typer.main.get_command makes {type(command)}"
    assert set(group.commands) == set(commands()), f"{RELEASE} a group does not keep its subcommands in `commands`"


def test_a_command_takes_its_parameters_from_the_signature() -> None:
    command = build_subcommand(commands()["sample"], lambda _: None)
    names = {name for parameter in command.params for name in parameter.opts}
    wanted = {one.name for one in commands()["sample"].flags} | {"--config", "--dry-run", "-n"}
    assert wanted <= names, f"{RELEASE} `__signature__` is not read: {sorted(wanted - names)} are missing"


def test_parameters_convert_their_values_with_the_runtime_param() -> None:
    plain = typer.Typer()

    @plain.command()
    def count(number: int) -> int:
        return number

    command: Any = typer.main.get_command(plain)
    (parameter,) = (one for one in command.params if one.name == "number")
    assert hasattr(parameter, "_runtime_param"), f"{RELEASE} parameters have no `_runtime_param`"

    class Seven:
        def coerce(self, value: Any, **_: Any) -> int:
            return 7

    parameter._runtime_param = Seven()
    found = command(["3"], standalone_mode=False)
    assert found == 7, f"{RELEASE} `_runtime_param.coerce` does not decide on a value"


def test_the_callbacks_of_completion_can_be_replaced() -> None:
    group = build_parser(lambda _: None)
    context = typer.Context(group)
    callbacks = {one.name: one.callback for one in group.get_params(context)}
    for name in ("install_completion", "show_completion"):
        assert name in callbacks, f"{RELEASE} there is no parameter {name}"
        assert callbacks[name].__module__ == "gsd_cli.cli.parser"


def test_errors_of_the_parser_have_a_message() -> None:
    with pytest.raises(Exception, match="distil") as caught:
        build_parser(lambda _: None)(["distil"], prog_name="gsd", standalone_mode=False)
    assert hasattr(caught.value, "format_message"), f"{RELEASE} errors have no `format_message`"


def test_a_reader_that_went_away_is_a_broken_pipe() -> None:
    """Typer turns the error into an exit that has it as its context; the parser raises it again."""

    def write(_: Invocation) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    streams = sys.stdout, sys.stderr
    try:
        with pytest.raises(BrokenPipeError):
            parse_and_run(["sample"], write)
    finally:
        sys.stdout, sys.stderr = streams  # Typer has wrapped them


# -- the parser ---------------------------------------------------------------------------------


def test_values_arrive_as_the_text_that_was_typed() -> None:
    (call,) = calls("sample", "-N", "007", "--truncation=often", "--grid", "--class", "3", "--config", "my.toml", "-n")
    assert call.command.name == "sample"
    assert call.given == {"num_samples": "007", "truncation": "often", "grid": True, "class": "3"}
    assert (call.config, call.dry_run, list(call.extra)) == ("my.toml", True, [])


def test_arguments_arrive_as_lists_and_unknown_options_are_collected() -> None:
    (call,) = calls("interpolate", "seed:1", "seed:2", "--frames", "3", "--tpyo")
    words = [*call.given["images"], *call.extra]
    assert (words, call.given["frames"]) == (["seed:1", "seed:2", "--tpyo"], "3")


def test_a_missing_value_and_an_unknown_subcommand_are_usage_errors() -> None:
    for words, problem, hint in (
        (("sample", "--seeds"), "seeds", "gsd sample --help"),
        (("smaple",), "smaple", "gsd --help"),
    ):
        with pytest.raises(UsageError, match=problem) as caught:
            parse_and_run(words, lambda _: None)
        assert caught.value.hint == hint


@pytest.mark.parametrize("word", ELSEWHERE)
def test_a_command_of_another_tool_leads_to_the_one_here(word: str) -> None:
    name, *flags = ELSEWHERE[word].split()
    assert word not in commands()
    assert set(flags[:1]) <= {flag.name for flag in commands()[name].flags}
    with pytest.raises(UsageError, match=f"no such command '{word}'") as refused:
        parse_and_run([word, "--steps", "3"], lambda _: None)
    assert refused.value.hint == f"that is gsd {ELSEWHERE[word]}"
