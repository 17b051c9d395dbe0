"""Man pages from the flags: roff, one page a subcommand and one for gsd itself."""

from __future__ import annotations

from gsd_cli.base.errors import MEANINGS
from gsd_cli.cli.examples import EXAMPLES
from gsd_cli.cli.flags import Command, Flag
from gsd_cli.cli.parser import SUMMARY
from scripts.text import ENVIRONMENT, ORDER, panels


def overview(commands: dict[str, Command], version: str) -> str:
    """gsd(1)."""
    lines = [*_head("gsd", SUMMARY, version), ".SH SYNOPSIS", r".B gsd", r"\fICOMMAND\fR [\fIOPTIONS\fR]"]
    lines += [".SH COMMANDS"]
    for command in commands.values():
        lines += [".TP", rf"\fBgsd\-{command.name}\fR(1)", _text(command.summary)]
    lines += [".SH CONFIGURATION", _text(ORDER), ".SH ENVIRONMENT"]
    for name, meaning in ENVIRONMENT.items():
        lines += [".TP", rf"\fB{_text(name)}\fR", _text(meaning)]
    lines += _exit_status()
    pages = ", ".join(rf"\fBgsd\-{name}\fR(1)" for name in commands)
    return "\n".join([*lines, ".SH SEE ALSO", pages]) + "\n"


def page(command: Command, version: str) -> str:
    """gsd-COMMAND(1)."""
    arguments = " ".join(rf"\fI{_text(one.metavar)}\fR" for one in command.flags if one.argument)
    lines = _head(f"gsd-{command.name}", command.summary, version)
    lines += [".SH SYNOPSIS", rf"\fBgsd {command.name}\fR [\fIOPTIONS\fR] {arguments}".rstrip()]
    lines += [".SH DESCRIPTION", _text(f"{command.summary} {command.details}".strip()), ".SH EXAMPLES"]
    for example in EXAMPLES[command.name]:
        lines += [".PP", ".nf", _text(example), ".fi"]
    for panel, flags in panels(command).items():
        lines += [f".SH {panel.upper()}"]
        for one in flags:
            default = "" if one.default in (None, "off") else f" Default: {one.default}."
            lines += [".TP", _spelling(one), _text(one.help + default)]
    lines += [".SH CONFIGURATION", _text(ORDER), *_exit_status(), ".SH SEE ALSO", r"\fBgsd\fR(1)"]
    return "\n".join(lines) + "\n"


def _head(name: str, summary: str, version: str) -> list[str]:
    title = f'.TH "{name.upper()}" "1" "" "gsd {version}" "gsd"'
    return [title, ".SH NAME", rf"{_text(name)} \- {_text(summary.rstrip('.'))}"]


def _exit_status() -> list[str]:
    lines = [".SH EXIT STATUS"]
    for code, meaning in MEANINGS.items():
        lines += [".TP", str(int(code)), _text(meaning)]
    return lines


def _spelling(one: Flag) -> str:
    if one.argument:
        return rf"\fI{_text(one.metavar)}\fR"
    names = ", ".join(rf"\fB{_text(name)}\fR" for part in one.names for name in part.split("/"))
    return names if one.boolean else rf"{names} \fI{_text(one.metavar)}\fR"


def _text(text: str) -> str:
    escaped = text.replace("\\", r"\e").replace("-", r"\-")
    return r"\&" + escaped if escaped.startswith((".", "'")) else escaped
