"""Completes values in the shell. It must be fast, because it runs at every press of Tab."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import typer

from gsd_cli.base.storage import ASSETS, RUNS
from gsd_cli.catalogue.find import finished_runs
from gsd_cli.catalogue.registry import (
    BASELINES,
    BUNDLED_MODELS,
    DATA_SETS,
    MEASURED_ATTRIBUTES,
    METRICS,
    PUBLISHED_STATISTICS,
    TEACHERS,
)
from gsd_cli.catalogue.run_layout import GENERATOR, TEACHER_SUFFIX
from gsd_cli.cli.flags import Flag

Completion = list[tuple[str, str]]
Completer = Callable[[typer.Context, str], Completion]

DIRECTION_COUNT = 16


def choose_completer(one: Flag) -> Callable[[typer.Context, str], Completion] | None:
    """The function that completes a flag's value. For None, or an empty list, the shell offers files."""
    if one.public in _COMPLETERS:
        return _COMPLETERS[one.public]
    if not one.choices:
        return None

    def choices(ctx: typer.Context, incomplete: str) -> Completion:
        # the value may be a choice or a file: offer the choices and the data sets of this folder
        files = [(str(path), "a file") for path in sorted(Path().glob("*.zip"))] if one.path else []
        return _keep_matching([*((choice, "") for choice in one.choices), *files], incomplete)

    return choices


def complete_teachers(ctx: typer.Context, incomplete: str) -> Completion:
    """The known teachers, then those that gsd prepare trained in this folder."""
    known = [(name, f"{t.size} x {t.size}, {t.hub or 'bundled'}") for name, t in TEACHERS.items()]
    here = [(path.name, "trained here") for path in sorted(Path().glob(f"*{TEACHER_SUFFIX}")) if path.is_dir()]
    return _keep_matching(known + here, incomplete)


def complete_models(ctx: typer.Context, incomplete: str) -> Completion:
    """Runs that have a generator, newest first, then the bundled generators."""
    runs = [(str(run), "a run") for run in finished_runs(RUNS, Path())]
    return _keep_matching([*runs, *((name, "bundled") for name in BUNDLED_MODELS)], incomplete)


def complete_directions(ctx: typer.Context, incomplete: str) -> Completion:
    """The principal directions of the bottleneck, then the files here that may hold a direction."""
    components = [(f"pc{k}", "principal direction") for k in range(DIRECTION_COUNT)]
    here = [(str(path), "a file") for path in sorted(Path().glob("*.safetensors"))]
    return _keep_matching([*components, *here], incomplete)


def complete_attributes(ctx: typer.Context, incomplete: str) -> Completion:
    """The attributes measured in pixels, then the attributes and classes in the model's card."""
    return _keep_matching(_list_attributes(ctx).items(), incomplete)


def complete_preserved(ctx: typer.Context, incomplete: str) -> Completion:
    """The next attribute of a comma-separated list."""
    return _complete_list(_list_attributes(ctx), incomplete)


def complete_classes(ctx: typer.Context, incomplete: str) -> Completion:
    """The classes of the model."""
    return _keep_matching(((name, "a class") for name in _read_names(ctx, "classes")), incomplete)


def _list_attributes(ctx: typer.Context) -> dict[str, str]:
    found = dict.fromkeys(MEASURED_ATTRIBUTES, "measured")
    return found | {name: f"of {key}" for key in ("attributes", "classes") for name in _read_names(ctx, key)}


def _read_names(ctx: typer.Context, key: str) -> list[str]:
    """The names under a key of the model's cards."""
    lists = [card[key] for card in _read_cards(ctx.params.get("model")) if isinstance(card.get(key), list)]
    return [str(name) for names in lists for name in names]


def _read_cards(spec: object) -> Iterable[dict[str, Any]]:
    """The JSON files of the model: the given one, else the newest run, else the bundled one."""
    named = [Path(str(spec))] if spec else sorted(RUNS.glob("*"), key=lambda p: -p.stat().st_mtime)[:1]
    for base in [*named, ASSETS / str(spec or BUNDLED_MODELS[0])]:
        folder = base / GENERATOR if (base / GENERATOR).is_dir() else base
        cards = sorted(folder.glob("*.json"))
        for path in cards:
            try:
                card = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue
            if isinstance(card, dict):
                yield card
        if cards:
            return


def complete_baselines(ctx: typer.Context, incomplete: str) -> Completion:
    """The next baseline of a comma-separated list."""
    return _complete_list(BASELINES, incomplete)


def complete_statistics(ctx: typer.Context, incomplete: str) -> Completion:
    """Statistics files in this folder, then the names of published statistics."""
    here = [(str(path), "a file") for path in sorted(Path().glob("*.npz"))]
    return _keep_matching([*here, *((name, "published by clean-fid") for name in PUBLISHED_STATISTICS)], incomplete)


def complete_metrics(ctx: typer.Context, incomplete: str) -> Completion:
    """The next metric of a comma-separated list."""
    return _complete_list(METRICS, incomplete)


def _complete_list(names: Iterable[str], incomplete: str) -> Completion:
    """Complete the last of several comma-separated names; those before it are not offered again."""
    before, comma, last = incomplete.rpartition(",")
    taken = before.split(",")
    return [(before + comma + name, "") for name in names if name.startswith(last) and name not in taken]


def complete_sources(ctx: typer.Context, incomplete: str) -> Completion:
    """The known data sets."""
    return _keep_matching([(name, "a data set") for name in DATA_SETS], incomplete)


def _keep_matching(names: Iterable[tuple[str, str]], incomplete: str) -> Completion:
    return [(name, note) for name, note in names if name.startswith(incomplete)]


_COMPLETERS: dict[str, Completer] = {
    "teacher": complete_teachers,
    "model": complete_models,
    "direction": complete_directions,
    "attribute": complete_attributes,
    "preserve": complete_preserved,
    "class": complete_classes,
    "source": complete_sources,
    "compare": complete_baselines,
    "metrics": complete_metrics,
    "stats": complete_statistics,
}
