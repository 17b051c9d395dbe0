"""The metric of edits: what they achieve, by attribute, for generators only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from gsd_cli.base.table import Table
from gsd_cli.comparison.contenders import Row
from gsd_cli.comparison.context import Context
from gsd_cli.comparison.metric import ARROWS, Better, Entry, Metric
from gsd_cli.core.editing.known_attributes import TRAITS
from gsd_cli.core.models.generator import Generator
from gsd_cli.metrics.edit_quality import FIT_SAMPLES, measure_edits

COLUMNS = {
    "success": ("success", "mean change of the attribute over what was asked for, at most 1"),
    "leakage": ("leakage", "mean change of the other attributes over the target's, in standard deviations"),
    "monotonicity": ("Spearman", "of strength (-2 to 2 standard deviations) and attribute"),
    "auroc": ("AUROC", "of a linear probe along the direction, on held-out samples: linear separability"),
    "class_kept": ("kept", "share of edited images that the classifier still calls the same"),
    "feature_distance": ("distance", "squared, in the generator's encoder, from the unchanged image at strength 2"),
}
BETTER: dict[str, Better] = {
    "success": "higher", "leakage": "lower", "monotonicity": "higher", "auroc": "higher", "class_kept": "higher",
    "feature_distance": "lower",
}  # fmt: skip


def _measure_edits(context: Context, entry: Entry) -> None:
    """What edits of a generator achieve. Attributes are found in the model's domain, whichever generator is edited."""
    generator, options = entry.contender.model, context.options
    if not isinstance(generator, Generator):
        return
    with context.session.progress(f"edits of {entry.contender.name}", len(TRAITS)) as bar:
        edited = replace(context.model, generator=generator)
        entry.row.edits = measure_edits(edited, options.edit_samples, options.batch_size, bar.update)


def edits_table(rows: Sequence[Row]) -> Table | None:
    """What edits achieve: a line for each generator and attribute; None where none was measured."""
    lines = [
        [row.name, name, *(_cell(figures, key) for key in COLUMNS)]
        for row in rows
        for name, figures in row.edits.items()
    ]
    notes = [f"{title}: {about}" for title, about in COLUMNS.values()]
    columns = ["model", "attribute", *(f"{title}{ARROWS[BETTER[key]]}" for key, (title, _) in COLUMNS.items())]
    records: list[dict[str, str | float | None]] = [
        {"model": row.name, "attribute": name, **{key: figures.get(key) for key in COLUMNS}}
        for row in rows
        for name, figures in row.edits.items()
    ]
    return Table("Edits", columns, lines, notes, records) if lines else None


def _cell(figures: Mapping[str, float], key: str) -> str:
    return f"{figures[key]:.3f}" if key in figures else "-"


def _edits_protocol(context: Context) -> dict[str, str]:
    samples = context.options.edit_samples
    return {"edits": f"{samples} own samples, directions found on {FIT_SAMPLES}, the better of latent and bottleneck"}


EDIT = Metric("edit", _measure_edits, protocol=_edits_protocol, table=edits_table)
