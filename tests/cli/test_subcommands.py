"""The table of subcommands: what it names exists."""

from __future__ import annotations

import inspect

import pytest

from gsd_cli.cli.examples import EXAMPLES
from gsd_cli.cli.subcommands import SUBCOMMANDS
from gsd_cli.options import Common


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_every_name_in_the_table_leads_somewhere(name: str) -> None:
    subcommand = SUBCOMMANDS[name]
    assert issubclass(subcommand.options, Common)
    assert list(inspect.signature(subcommand.runner()).parameters) == ["options", "session"]


def test_examples_are_of_these_subcommands() -> None:
    assert set(SUBCOMMANDS) <= set(EXAMPLES)
