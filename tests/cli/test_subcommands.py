"""Everything in the table of subcommands exists."""

from __future__ import annotations

import inspect

import pytest

from gsd_cli.cli.examples import EXAMPLES
from gsd_cli.cli.subcommands import SUBCOMMANDS
from gsd_cli.options import Common


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_every_name_in_the_table_can_be_imported(name: str) -> None:
    subcommand = SUBCOMMANDS[name]
    assert issubclass(subcommand.options, Common)
    options, session, *others = inspect.signature(subcommand.runner()).parameters.values()
    assert (options.name, session.name) == ("options", "session")
    assert all(other.default is not inspect.Parameter.empty for other in others)


def test_every_subcommand_has_examples() -> None:
    assert set(SUBCOMMANDS) <= set(EXAMPLES)
