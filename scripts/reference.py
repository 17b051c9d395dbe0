"""The reference of the documentation from the flags: one Markdown page a subcommand, and an overview."""

from __future__ import annotations

from gsd_cli.base.errors import MEANINGS
from gsd_cli.cli.examples import EXAMPLES
from gsd_cli.cli.flags import Command, Flag
from scripts.text import ENVIRONMENT, ORDER, panels

NOTE = "<!-- Made by `python -m scripts.generate` from the option models; do not edit. -->\n"


def overview(commands: dict[str, Command]) -> str:
    """The index: subcommands, configuration, environment, exit codes."""
    listed = "\n".join(f"- [`gsd {c.name}`](gsd-{c.name}.md): {c.summary}" for c in commands.values())
    environment = "\n".join(f"| `{name}` | {meaning} |" for name, meaning in ENVIRONMENT.items())
    codes = "\n".join(f"| {int(code)} | {meaning} |" for code, meaning in MEANINGS.items())
    return (
        f"{NOTE}# Reference\n\n{listed}\n\n## Configuration\n\n{ORDER}\n\n"
        f"## Environment\n\n| variable | meaning |\n| --- | --- |\n{environment}\n\n"
        f"## Exit codes\n\n| code | meaning |\n| ---: | --- |\n{codes}\n"
    )


def page(command: Command) -> str:
    """One subcommand."""
    arguments = "".join(f" {one.metavar}" for one in command.flags if one.argument)
    examples = "\n".join(EXAMPLES[command.name])
    text = f"{NOTE}# gsd {command.name}\n\n{f'{command.summary} {command.details}'.strip()}\n\n"
    text += f"    gsd {command.name} [OPTIONS]{arguments}\n\n```sh\n{examples}\n```\n"
    for panel, flags in panels(command).items():
        rows = "\n".join(_row(one) for one in flags)
        text += f"\n## {panel}\n\n| option | value | default | |\n| --- | --- | --- | --- |\n{rows}\n"
    return text


def _row(one: Flag) -> str:
    value = f"`{_cell(one.metavar)}`" if one.metavar else ""
    default = "" if one.default in (None, "off") else f"`{one.default}`"
    names = ", ".join(f"`{name}`" for part in one.names for name in part.split("/"))
    first, second = (value, "") if one.argument else (names, value)
    return f"| {first} | {second} | {default} | {_cell(one.help)} |"


def _cell(text: str) -> str:
    return text.replace("|", r"\|")
