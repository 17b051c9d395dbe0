"""How an option model becomes a typer command's signature."""

from __future__ import annotations

import inspect
import keyword
import types
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from gsd_cli.resolve import field_names, flag

RUN_PANEL = "Common"


def with_signature(function: Callable[..., None], model: type[BaseModel]) -> Callable[..., None]:
    """Give `function(**given)` one parameter per field of `model`, plus --config and --dry-run.

    Every valued option reaches `function` as the text the user typed, or None: typer ignores
    pydantic's constraints, so validation happens once, in `resolve`.
    """
    fields = {public: model.model_fields[name] for public, name in field_names(model).items()}
    ordered = sorted(fields.items(), key=lambda item: not _extra(item[1]).get("argument"))
    parameters = [_parameter(public, info) for public, info in ordered]
    config = typer.Option(
        "--config", metavar="FILE", help="Read options from a TOML file; - for stdin.", rich_help_panel=RUN_PANEL
    )
    dry_run = typer.Option(
        "--dry-run",
        "-n",
        help="Show the options and where each came from; write nothing.",
        rich_help_panel=RUN_PANEL,
        show_default=False,
    )
    parameters += [_make("config", str, config), _make("dry_run", bool, dry_run)]
    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    function.__annotations__ = {p.name: p.annotation for p in parameters}
    return function


def _extra(info: FieldInfo) -> dict[str, Any]:
    return info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}


def _make(name: str, kind: Any, option: Any) -> inspect.Parameter:
    name += "_" * keyword.iskeyword(name)  # --class: no parameter may be called so
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
    )


def _parameter(public: str, info: FieldInfo) -> inspect.Parameter:
    extra = _extra(info)
    if extra.get("argument"):
        kind = list[str] if get_origin(info.annotation) is tuple else str
        return _make(public, kind, typer.Argument(metavar=extra["metavar"], help=info.description, show_default=False))
    names = [flag(public)]
    if _is_bool(info) and info.default is not False:
        names = [f"{flag(public)}/--no-{public.replace('_', '-')}"]
    if extra.get("short"):
        names.append(extra["short"])
    shown = False if info.default in (None, False) or info.is_required() else _shown(info.default)
    panel = extra.get("panel", "Options")
    help_text = info.description
    if _is_bool(info):
        option = typer.Option(*names, help=help_text, rich_help_panel=panel, show_default=shown)
        return _make(public, bool, option)
    option = typer.Option(
        *names,
        help=help_text,
        rich_help_panel=panel,
        show_default=shown,
        metavar=extra.get("metavar") or _metavar(info.annotation),
    )
    return _make(public, str, option)


def _shown(default: Any) -> str:
    if isinstance(default, bool):
        return "on" if default else "off"
    return f"{default:g}" if isinstance(default, float) else str(default)


def _is_bool(info: FieldInfo) -> bool:
    return info.annotation is bool or set(get_args(info.annotation)) == {bool, type(None)}


def _metavar(annotation: Any) -> str:
    """What a value looks like: choices, or the type's name."""
    if get_origin(annotation) is Annotated:
        return _metavar(get_args(annotation)[0])
    if get_origin(annotation) is Literal:
        return "|".join(str(choice) for choice in get_args(annotation))
    if get_origin(annotation) in (Union, types.UnionType):
        parts = [_metavar(a) for a in get_args(annotation) if a is not type(None)]
        return "|".join(parts)
    return {int: "INTEGER", float: "NUMBER", Path: "PATH"}.get(annotation, "TEXT")
