"""What a value may be, for the shell's completion. Nothing heavy: it runs at every press of Tab."""

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

DIRECTIONS = 16


def completer(one: Flag) -> Callable[[typer.Context, str], Completion] | None:
    """What completes a flag's value; None, like an empty list, leaves it to the shell, which offers files."""
    if one.public in _DYNAMIC:
        return _DYNAMIC[one.public]
    if not one.choices:
        return None

    def choices(ctx: typer.Context, incomplete: str) -> Completion:
        # a word or a file: words, and data sets here
        files = [(str(path), "a file") for path in sorted(Path().glob("*.zip"))] if one.path else []
        return _starting([*((choice, "") for choice in one.choices), *files], incomplete)

    return choices


def teachers(ctx: typer.Context, incomplete: str) -> Completion:
    """Names of the registry; then teachers that gsd prepare fitted here."""
    known = [(name, f"{t.size} x {t.size}, {t.hub or 'bundled'}") for name, t in TEACHERS.items()]
    here = [(path.name, "fitted here") for path in sorted(Path().glob(f"*{TEACHER_SUFFIX}")) if path.is_dir()]
    return _starting(known + here, incomplete)


def models(ctx: typer.Context, incomplete: str) -> Completion:
    """Runs with a generator, the newest first, and the bundled generators."""
    runs = [(str(run), "a run") for run in finished_runs(RUNS, Path())]
    return _starting([*runs, *((name, "bundled") for name in BUNDLED_MODELS)], incomplete)


def directions(ctx: typer.Context, incomplete: str) -> Completion:
    """Principal directions of the bottleneck."""
    return _starting([(f"pc{k}", "principal direction") for k in range(DIRECTIONS)], incomplete)


def attributes(ctx: typer.Context, incomplete: str) -> Completion:
    """What is measured in the pixels, then the attributes and classes that the model's card names."""
    return _starting(_attributes(ctx).items(), incomplete)


def preserved(ctx: typer.Context, incomplete: str) -> Completion:
    """The same, after what is already in the list."""
    return _next_of(_attributes(ctx), incomplete)


def classes(ctx: typer.Context, incomplete: str) -> Completion:
    """The classes of the model."""
    return _starting(((name, "a class") for name in _named(ctx, "classes")), incomplete)


def _attributes(ctx: typer.Context) -> dict[str, str]:
    found = dict.fromkeys(MEASURED_ATTRIBUTES, "measured")
    return found | {name: f"of {key}" for key in ("attributes", "classes") for name in _named(ctx, key)}


def _named(ctx: typer.Context, key: str) -> list[str]:
    """The names that the cards of the model list under a key."""
    lists = [card[key] for card in _cards(ctx.params.get("model")) if isinstance(card.get(key), list)]
    return [str(name) for names in lists for name in names]


def _cards(spec: object) -> Iterable[dict[str, Any]]:
    """The JSON files of the model that is meant: the one named, else the newest run, else the bundled one."""
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


def baselines(ctx: typer.Context, incomplete: str) -> Completion:
    """Samplers to compare with, after what is already in the list."""
    return _next_of(BASELINES, incomplete)


def statistics(ctx: typer.Context, incomplete: str) -> Completion:
    """Statistics here, and the names of published ones."""
    here = [(str(path), "a file") for path in sorted(Path().glob("*.npz"))]
    return _starting([*here, *((name, "published by clean-fid") for name in PUBLISHED_STATISTICS)], incomplete)


def metrics(ctx: typer.Context, incomplete: str) -> Completion:
    """Figures of gsd bench, after what is already in the list."""
    return _next_of(METRICS, incomplete)


def _next_of(names: Iterable[str], incomplete: str) -> Completion:
    """The last of several comma-separated names."""
    before, comma, last = incomplete.rpartition(",")
    taken = before.split(",")
    return [(before + comma + name, "") for name in names if name.startswith(last) and name not in taken]


def sources(ctx: typer.Context, incomplete: str) -> Completion:
    """Data sets known by name."""
    return _starting([(name, "a data set") for name in DATA_SETS], incomplete)


def _starting(names: Iterable[tuple[str, str]], incomplete: str) -> Completion:
    return [(name, note) for name, note in names if name.startswith(incomplete)]


_DYNAMIC: dict[str, Completer] = {
    "teacher": teachers,
    "model": models,
    "direction": directions,
    "attribute": attributes,
    "preserve": preserved,
    "class": classes,
    "source": sources,
    "compare": baselines,
    "metrics": metrics,
    "stats": statistics,
}
