"""The flags of every subcommand as plain data.

They are derived from the option models and stored in flags.json, so that help and completion need not load pydantic.
The file holds a fingerprint of their sources. If it is out of date, the flags are derived from the models again.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import types
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

from gsd_cli.cli.subcommands import SUBCOMMANDS

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic.fields import FieldInfo

    from gsd_cli.options import Common

SOURCE = Path(__file__).parents[1] / "options"
NAME_SOURCES = [SOURCE.with_name("catalogue") / name for name in ("file_formats.py", "readings.py", "registry.py")]
"""Modules whose names appear in choices and help texts."""
STORE = Path(__file__).with_name("flags.json")


@dataclass(frozen=True)
class Flag:
    """One option or argument, with everything that help, completion, man pages and the reference show."""

    public: str
    help: str
    panel: str
    metavar: str
    argument: bool = False
    boolean: bool = False
    many: bool = False
    path: bool = False
    short: str | None = None
    default: str | None = None
    choices: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The flag as typed: --batch-size."""
        return flag_name(self.public)

    @property
    def names(self) -> list[str]:
        """Every spelling, such as --batch-size, --resume/--no-resume or -o."""
        off = f"/--no-{self.public.replace('_', '-')}" if self.boolean and self.switchable else ""
        return [self.name + off, *([self.short] if self.short else [])]

    @property
    def switchable(self) -> bool:
        """Whether the flag has a --no- form: a boolean that is on or unset by default."""
        return self.default != "off"


@dataclass(frozen=True)
class Command:
    """A subcommand: its name, a summary of one line, its flags, and what else its help says, if anything."""

    name: str
    summary: str
    flags: tuple[Flag, ...]
    details: str = ""


def flag_name(public: str) -> str:
    """The flag of a public option name."""
    return "--" + public.replace("_", "-")


def commands() -> dict[str, Command]:
    """Every subcommand by name, in the order that help shows."""
    stored = json.loads(STORE.read_text(encoding="utf-8")) if STORE.exists() else {}
    if stored.get("source") == fingerprint():
        return {name: _parse_command(name, content) for name, content in stored["commands"].items()}
    return {name: describe(name, model) for name, model in MODELS.items()}


class Models(Mapping[str, "type[Common]"]):
    """The option model of every subcommand. Each is built when it is first used; the first loads pydantic."""

    def __getitem__(self, name: str) -> type[Common]:
        return SUBCOMMANDS[name].options

    def __iter__(self) -> Iterator[str]:
        return iter(SUBCOMMANDS)

    def __len__(self) -> int:
        return len(SUBCOMMANDS)


MODELS = Models()


def fingerprint() -> str:
    """The fingerprint of the files that the flags are derived from."""
    found = hashlib.sha256()
    for path in (*sorted(SOURCE.glob("*.py")), *NAME_SOURCES):
        content = path.read_bytes()
        found.update(f"{path.name} {len(content)}\n".encode() + content)
    return found.hexdigest()


def dump(found: Mapping[str, Command]) -> str:
    """The content of flags.json: of each flag, the fields that differ from their defaults."""

    def short(one: Flag) -> dict[str, Any]:
        return {k: v for k, v in asdict(one).items() if v not in (False, None, ())}

    content = {
        name: {"summary": c.summary, "details": c.details, "flags": [short(f) for f in c.flags]}
        for name, c in found.items()
    }
    return json.dumps({"source": fingerprint(), "commands": content}, indent=1) + "\n"


def _parse_command(name: str, content: dict[str, Any]) -> Command:
    flags = tuple(Flag(**{**one, "choices": tuple(one.get("choices", ()))}) for one in content["flags"])
    return Command(name, content["summary"], flags, content["details"])


def describe(name: str, model: type[BaseModel]) -> Command:
    """Derive a subcommand from its option model: arguments first, common options last.

    A default is what the option has when no other is given, so that of the default preset where that sets one.
    """
    from gsd_cli.options import PRESETS

    info = model.model_fields.get("preset")
    preset = PRESETS[info.default] if info is not None else {}
    flags = [
        _describe_flag(info.alias or field, info, preset.get(field, info.default))
        for field, info in model.model_fields.items()
    ]
    flags.sort(key=lambda one: (not one.argument, one.panel == "Common", one.panel != "Options"))
    summary, _, details = inspect.cleandoc(model.__doc__ or "").partition("\n\n")
    return Command(name, summary, tuple(flags), " ".join(details.split()))


def _describe_flag(public: str, info: FieldInfo, default: Any) -> Flag:
    extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
    members = _list_types(info.annotation)
    choices = tuple(str(c) for member in members if get_origin(member) is Literal for c in get_args(member))
    return Flag(
        public,
        info.description or "",
        str(extra.get("panel", "Arguments")),
        str(extra.get("metavar") or "|".join(_choose_metavar(member) for member in members)),
        argument=bool(extra.get("argument")),
        boolean=bool in members,
        many=any(get_origin(member) is tuple for member in members) and bool(extra.keys() & {"argument", "repeated"}),
        path=Path in members,
        short=str(extra["short"]) if extra.get("short") else None,
        default=None if info.is_required() or default in (None, ()) else _format_default(default),
        choices=choices,
    )


def _list_types(annotation: Any) -> list[Any]:
    """The types that a value may have, without constraints and None."""
    if get_origin(annotation) is Annotated:
        return _list_types(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [member for part in get_args(annotation) if part is not type(None) for member in _list_types(part)]
    return [annotation]


def _choose_metavar(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "|".join(str(choice) for choice in get_args(kind))
    return {int: "INTEGER", float: "NUMBER", Path: "PATH", bool: ""}.get(kind, "TEXT")


def _format_default(default: Any) -> str:
    if isinstance(default, bool):
        return "on" if default else "off"
    return f"{default:g}" if isinstance(default, float) else str(default)
