"""Finds the value of each option: from its flag, the environment, config files, the preset or the default."""

from __future__ import annotations

import os
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from gsd_cli.base.errors import UsageError
from gsd_cli.base.text import did_you_mean
from gsd_cli.cli.flags import flag_name
from gsd_cli.options.presets import apply_preset

Options = TypeVar("Options", bound=BaseModel)
DEFAULT, PRESET = "default", "preset "
"""What `origins` says of a value that nobody gave; the name of the preset follows."""


@dataclass(frozen=True)
class Resolved(Generic[Options]):
    """Validated options. origins: the source of each value, by public name."""

    options: Options
    origins: dict[str, str]

    def is_given(self, public: str) -> bool:
        """Whether a value comes from a flag, a variable or a config file, not from the preset or the default."""
        return self.origins[public] != DEFAULT and not self.origins[public].startswith(PRESET)


def field_names(model: type[BaseModel]) -> dict[str, str]:
    """The field name of each public name (flag, config key)."""
    return {info.alias or name: name for name, info in model.model_fields.items()}


def resolve(
    command: str,
    model: type[Options],
    given: Mapping[str, Any],
    models: Mapping[str, type[BaseModel]],
    config: str | None = None,
    unknown: Sequence[str] = (),
) -> Resolved[Options]:
    """Merge all sources and validate once.

    given: the values of the flags in the call, by public name. models: the option models of all subcommands, because
    one config file may serve them all. unknown: mistakes that were already found.
    Raises UsageError (exit 2) naming every wrong option.
    """
    problems = list(unknown)
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}

    def take(layer: Mapping[str, Any], origin: str) -> None:
        for name, value in layer.items():
            values[name] = value
            origins[name] = origin

    for path, text in _read_config_files(config, problems):
        take(_read_config(command, path, text, models, problems), path)
    names = field_names(model)
    for public in names:
        if (value := os.environ.get("GSD_" + public.upper())) is not None:
            take({public: value}, "GSD_" + public.upper())
    for public, value in given.items():
        take({public: value}, flag_name(public))
    if "preset" in names:
        apply_preset(values, origins)
    try:
        options = model.model_validate(values)
    except ValidationError as error:
        # a union (auto or a number) gives one error per member: keep one line per option
        first = {e["loc"][:1] or (i,): e for i, e in reversed(list(enumerate(error.errors())))}
        problems += [_describe_error(e, model, origins) for e in reversed(first.values())]
    if problems:
        raise UsageError(problems, hint=f"gsd {command} --help")
    return Resolved(options, {public: origins.get(public, DEFAULT) for public in names})


def _read_config_files(config: str | None, problems: list[str]) -> list[tuple[str, str]]:
    """The names and texts of the config files that apply. Later ones override earlier ones."""
    from platformdirs import user_config_path

    found = []
    for path in (user_config_path("gsd") / "config.toml", Path("gsd.toml")):
        if path.is_file():
            found.append((str(path), path.read_text(encoding="utf-8", errors="replace")))
    if config == "-":
        found.append(("stdin", sys.stdin.read()))
    elif config is not None:
        try:
            found.append((config, Path(config).read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:  # ValueError: not text, or an impossible file name
            problems.append(f"--config: cannot read {config}: {error}")
    return found


def _read_config(
    command: str, path: str, text: str, models: Mapping[str, type[BaseModel]], problems: list[str]
) -> dict[str, Any]:
    """The values in one config file for `command`. Its own table overrides top-level keys."""
    try:
        content = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        problems.append(f"{path}: broken TOML: {error}")
        return {}
    known = {name: set(field_names(m)) for name, m in models.items()}
    everything = set().union(*known.values())
    chosen: dict[str, Any] = {}
    for key, value in content.items():
        public = key.replace("-", "_")
        if key in known and isinstance(value, dict):
            for inner in value:
                if inner.replace("-", "_") not in known[key]:
                    problems.append(f"{path}: unknown key {inner!r} in [{key}]{did_you_mean(inner, known[key])}")
        elif public not in everything:
            problems.append(f"{path}: unknown key {key!r}{did_you_mean(key, everything | set(known))}")
        elif public in known[command]:
            chosen[public] = value
    table = content.get(command, {})
    if isinstance(table, dict):
        chosen |= {k.replace("-", "_"): v for k, v in table.items() if k.replace("-", "_") in known[command]}
    return chosen


EXPECTED = {
    "float_parsing": "a number",
    "float_type": "a number",
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "string_type": "text",
    "finite_number": "a finite number",
}
"""The expected kind of value, by the type of pydantic's error."""


def _describe_error(error: Any, model: type[BaseModel], origins: Mapping[str, str]) -> str:
    message = error["msg"].removeprefix("Value error, ")
    if not error["loc"]:
        return str(message)
    public = str(error["loc"][0])
    info = next(i for n, i in model.model_fields.items() if (i.alias or n) == public)
    extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
    name = str(extra["metavar"]) if extra.get("argument") else flag_name(public)
    if error["type"] == "missing" or (extra.get("argument") and error["type"] == "too_short"):
        return f"missing argument {name}"
    if (origin := origins.get(public, name)) not in (name, flag_name(public)):
        name = f"{name} (from {origin})"
    if error["type"] == "value_error":  # our own messages already name the value if that helps
        return f"{name}: {message}"
    given = error["input"]
    if error["type"] == "string_pattern_mismatch":
        return f"{name}: {given!r} does not have the form {extra['metavar']}"
    if kind := EXPECTED.get(error["type"]):
        return f"{name}: {kind} is needed, not {given!r}"
    hint = ""
    if expected := error.get("ctx", {}).get("expected"):
        hint = did_you_mean(str(given), [c.strip(" '") for c in str(expected).replace(" or ", ",").split(",")])
    return f"{name}: {_lower_first(message.replace('Input should be', 'must be'))}, not {given!r}{hint}"


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]
