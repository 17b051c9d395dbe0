"""The flags of every subcommand as plain data.

They are derived from the option models, and kept in flags.json so that help and completion need not
load pydantic. The file names the texts it was made from: when one of options/ differs, the models speak.
"""

from __future__ import annotations

import hashlib
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
NAMES = [SOURCE.with_name("catalogue") / name for name in ("file_formats.py", "registry.py")]
"""Names that choices and help texts are made of."""
STORE = Path(__file__).with_name("flags.json")


@dataclass(frozen=True)
class Flag:
    """One option or argument: everything that help, completion, man page and reference show."""

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
        return flag(self.public)

    @property
    def names(self) -> list[str]:
        """Every spelling: --batch-size, --resume/--no-resume, -o."""
        off = f"/--no-{self.public.replace('_', '-')}" if self.boolean and self.switchable else ""
        return [self.name + off, *([self.short] if self.short else [])]

    @property
    def switchable(self) -> bool:
        """Whether there is something to switch off: a boolean that is on, or unset, by default."""
        return self.default != "off"


@dataclass(frozen=True)
class Command:
    """A subcommand: one line of summary and its flags."""

    name: str
    summary: str
    flags: tuple[Flag, ...]


def flag(public: str) -> str:
    """The flag of a public option name."""
    return "--" + public.replace("_", "-")


def commands() -> dict[str, Command]:
    """Every subcommand by name, in the order that help shows."""
    stored = json.loads(STORE.read_text(encoding="utf-8")) if STORE.exists() else {}
    if stored.get("source") == fingerprint():
        return {name: _read(name, content) for name, content in stored["commands"].items()}
    return {name: describe(name, model) for name, model in MODELS.items()}


class Models(Mapping[str, "type[Common]"]):
    """The option model of every subcommand; the first one loads pydantic, each is built when it is asked for."""

    def __getitem__(self, name: str) -> type[Common]:
        return SUBCOMMANDS[name].options

    def __iter__(self) -> Iterator[str]:
        return iter(SUBCOMMANDS)

    def __len__(self) -> int:
        return len(SUBCOMMANDS)


MODELS = Models()


def fingerprint() -> str:
    """Of the text that the flags are derived from."""
    found = hashlib.sha256()
    for path in (*sorted(SOURCE.glob("*.py")), *NAMES):
        content = path.read_bytes()
        found.update(f"{path.name} {len(content)}\n".encode() + content)
    return found.hexdigest()


def dump(found: Mapping[str, Command]) -> str:
    """What flags.json holds: fields that differ from their default."""

    def short(one: Flag) -> dict[str, Any]:
        return {k: v for k, v in asdict(one).items() if v not in (False, None, ())}

    content = {name: {"summary": c.summary, "flags": [short(f) for f in c.flags]} for name, c in found.items()}
    return json.dumps({"source": fingerprint(), "commands": content}, indent=1) + "\n"


def _read(name: str, content: dict[str, Any]) -> Command:
    flags = tuple(Flag(**{**one, "choices": tuple(one.get("choices", ()))}) for one in content["flags"])
    return Command(name, content["summary"], flags)


def describe(name: str, model: type[BaseModel]) -> Command:
    """A subcommand as its option model says it: arguments first, common options last."""
    flags = [_flag(info.alias or field, info) for field, info in model.model_fields.items()]
    flags.sort(key=lambda one: (not one.argument, one.panel == "Common", one.panel != "Options"))
    return Command(name, (model.__doc__ or "").strip(), tuple(flags))


def _flag(public: str, info: FieldInfo) -> Flag:
    extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
    members = _members(info.annotation)
    choices = tuple(str(c) for member in members if get_origin(member) is Literal for c in get_args(member))
    return Flag(
        public,
        info.description or "",
        str(extra.get("panel", "Arguments")),
        str(extra.get("metavar") or "|".join(_metavar(member) for member in members)),
        argument=bool(extra.get("argument")),
        boolean=bool in members,
        many=any(get_origin(member) is tuple for member in members) and bool(extra.get("argument")),
        path=Path in members,
        short=str(extra["short"]) if extra.get("short") else None,
        default=None if info.is_required() or info.default is None else _shown(info.default),
        choices=choices,
    )


def _members(annotation: Any) -> list[Any]:
    """The types a value may have, without constraints and None."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [member for part in get_args(annotation) if part is not type(None) for member in _members(part)]
    return [annotation]


def _metavar(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "|".join(str(choice) for choice in get_args(kind))
    return {int: "INTEGER", float: "NUMBER", Path: "PATH", bool: ""}.get(kind, "TEXT")


def _shown(default: Any) -> str:
    if isinstance(default, bool):
        return "on" if default else "off"
    return f"{default:g}" if isinstance(default, float) else str(default)
