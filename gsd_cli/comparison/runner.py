"""The measurements behind `gsd bench`: each metric of each contender, by one protocol."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch

from gsd_cli.base.session import Session
from gsd_cli.base.table import Table
from gsd_cli.comparison.contenders import Contender, Row
from gsd_cli.comparison.context import Context
from gsd_cli.comparison.gallery import Gallery, make_gallery
from gsd_cli.comparison.images import look_at_images
from gsd_cli.comparison.metric import Entry
from gsd_cli.comparison.metric_table import METRICS
from gsd_cli.comparison.protocol import protocol
from gsd_cli.core.models.generator import Model
from gsd_cli.options import BenchOptions


class Bench(Context):
    """The context of a bench with the metrics that are wanted, by name."""

    def __init__(
        self, options: BenchOptions, wanted: Collection[str], model: Model, device: torch.device, session: Session,
        name: str | None = None, rivals: Mapping[str, Model] | None = None,
    ):  # fmt: skip
        self.metrics = [metric for metric in METRICS if metric.name in wanted]
        needs = {need for metric in self.metrics for need in metric.needs}
        super().__init__(options, needs, model, device, session, name, rivals)
        for metric in self.metrics:
            if metric.real is not None:
                figures, self.real_name = metric.real(self)
                self.real_figures |= figures

    def rows(self) -> list[Row]:
        """Measure every contender: baselines first, the model last, as the paper prints them."""
        entries = [self._enter(contender) for contender in self.contenders]
        for metric in self.metrics:
            if metric.measure_together is not None:
                metric.measure_together(self, entries)
        return [entry.row for entry in entries]

    def _enter(self, contender: Contender) -> Entry:
        """Measure what is measured of one contender alone."""
        entry = Entry(contender, Row(contender.name, contender.subject.calls, contender.subject.parameters), {})
        entry.row.perceptual = self.perceptual.name
        entry.row.judge = self.judges[0].extractor.name if self.judges else ""
        looks = {look.name: look for metric in self.metrics if metric.looks for look in metric.looks(self)}
        if looks:
            entry.row.samples = self.samples
            seen, origin = look_at_images(self, contender, list(looks.values()))
            entry.seen.update(seen)
            if seen:
                entry.row.protocol["samples"] = f"{self.samples} samples, {origin}"
        for metric in self.metrics:
            if metric.measure is not None:
                metric.measure(self, entry)
        entry.seen.clear()  # features of many images are large
        return entry

    def cautions(self) -> list[str]:
        """What to warn of before anything is measured."""
        return [caution for metric in self.metrics if (caution := metric.caution(self)) is not None]

    def facts(self) -> dict[str, str]:
        """The protocol of every figure."""
        return protocol(self, self.metrics)

    def further_tables(self, rows: list[Row]) -> list[Table]:
        """The metrics' own tables, next to the paper's."""
        return [table for metric in self.metrics if (table := metric.table(rows)) is not None]

    def gallery(self) -> Gallery:
        """What a report shows of every contender."""
        return make_gallery(self)
