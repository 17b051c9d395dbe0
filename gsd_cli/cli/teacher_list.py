"""gsd distill --list-teachers."""

from __future__ import annotations

from dataclasses import asdict

from gsd_cli.base.console import Result
from gsd_cli.base.table import Table
from gsd_cli.catalogue.registry import TEACHERS


def list_teachers() -> Result:
    """The teachers known by name: what they are, where from, whether they are at hand."""
    from gsd_cli.core.models.hub import is_cached

    rows, facts = [], {}
    for name, entry in TEACHERS.items():
        at_hand = "bundled" if entry.hub is None else "cached" if is_cached(entry.hub) else "no"
        source = entry.hub or "this package"
        millions = f"{entry.parameters / 1e6:.1f} M"
        rows.append([name, f"{entry.size} x {entry.size}", millions, entry.licence, source, at_hand])
        facts[name] = {**asdict(entry), "at_hand": at_hand}
    notes = [f"{name}: {entry.caution}" for name, entry in TEACHERS.items() if entry.caution]
    notes.append("Any other: --teacher FOLDER or --teacher OWNER/NAME, a DDPM in diffusers format.")
    columns = ["teacher", "pictures", "parameters", "licence", "source", "at hand"]
    return Result(list(TEACHERS), {"teachers": facts}, Table("Teachers", columns, rows, notes))
