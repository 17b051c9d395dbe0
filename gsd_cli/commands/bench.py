"""gsd bench: measure any generator and its baselines, as in the paper's tables."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from gsd_cli.base.atomic import require_writable
from gsd_cli.base.console import Result
from gsd_cli.base.errors import ExitCode, GsdError
from gsd_cli.base.session import Session
from gsd_cli.base.table import Table
from gsd_cli.catalogue.run_layout import METRICS_LOG
from gsd_cli.commands.ablation import FULL, distil_variants
from gsd_cli.comparison.contenders import Row
from gsd_cli.comparison.report import Findings, write_report
from gsd_cli.comparison.runner import Bench
from gsd_cli.comparison.tables import short_names, table1, table2
from gsd_cli.compute.device import resolve_device
from gsd_cli.core.models.open import open_model
from gsd_cli.options import BenchOptions

NOTHING_ON_STDOUT = (
    "stdout gets nothing: the tables are on stderr. --report DIR writes them to files and prints their paths, --json "
    "prints the figures"
)


def run(options: BenchOptions, session: Session) -> Result:
    """Measure the model and each baseline, print the tables, and check the thresholds."""
    wanted = options.wanted
    if options.report is not None:
        require_writable(options.report, folder=True)

    device = resolve_device(options.device)
    model = open_model(options.model, device, session)
    bench = Bench(options, wanted, model, device, session)
    for caution in bench.cautions():
        session.warn(caution)
    variants = _run_ablation(options, wanted, bench, session) if options.ablate else None
    rows = bench.rows()
    for note in bench.notes:
        session.warn(note)
    tables = [table1(rows, bench.figure, bench.facts(), bench.real_figures)]
    metrics = _collect_metrics(rows, bench)
    if variants is not None:
        ablation, found = variants
        facts = ablation.facts() | {"model": f"{ablation.model.card['images']:,} images each, one start and one seed"}
        tables.append(table2(found, ablation.figure, facts, ablation.real_figures))
        metrics["ablation"] = _collect_metrics(found, ablation)
    tables += bench.further_tables(rows)
    outputs = []
    if options.report is not None:
        outputs = _write_files(options.report, bench, variants[0] if variants else None, rows, tables, metrics)
    if not (outputs or options.json_ or session.console.shows_stdout):
        session.say(NOTHING_ON_STDOUT)
    for earlier in tables[:-1]:
        session.console.show_table(earlier)
    result = Result([str(path) for path in outputs], metrics, tables[-1])
    missed = _find_missed(options, rows, bench.figure)
    if missed:  # the result is printed even so
        session.console.finish("bench", result, options.model_dump(mode="json", by_alias=True))
        raise GsdError("; ".join(missed), code=ExitCode.THRESHOLD)
    return result


def _run_ablation(options: BenchOptions, wanted: set[str], first: Bench, session: Session) -> tuple[Bench, list[Row]]:
    """Distil the variants and measure them in a second bench, with the same number of samples as the model."""
    variants = distil_variants(options, first.model, session)
    full = variants.pop(FULL)
    full.generator.to(first.device).eval().requires_grad_(False)
    same = options.model_copy(update={"compare": "", "num_samples": first.samples, "refine": None})
    bench = Bench(same, wanted, full, first.device, session, FULL, variants)
    return bench, bench.rows()


def _write_files(
    folder: Path, bench: Bench, ablation: Bench | None, rows: list[Row], tables: list[Table], metrics: dict[str, Any]
) -> list[Path]:
    """Write the files of --report; returns their paths."""
    model = bench.model
    *others, ours = short_names([row.name for row in rows]).values()
    title = " against ".join(filter(None, [ours, ", ".join(others)]))
    run = model.folder.parent if (model.folder.parent / METRICS_LOG).exists() else None
    variants = ablation.gallery() if ablation else None
    return write_report(folder, Findings(title, bench.figure, rows, tables, metrics, bench.gallery(), variants, run))


def _collect_metrics(rows: list[Row], bench: Bench) -> dict[str, Any]:
    """The figures of all rows, for --json."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        time = asdict(row.time) if row.time else None
        found[row.name] = {
            "calls": row.calls, "parameters": row.parameters, **row.figures, "distances": row.distances, "time": time,
            "protocol": row.protocol,
        }  # fmt: skip
        if row.edits:
            found[row.name]["edits"] = row.edits
    real = {**bench.real_figures, "source": bench.real_name} if bench.real_figures else {}
    return {"model": bench.ours.name, "rows": found, "figure": bench.figure, "real": real, "protocol": bench.facts()}


def _find_missed(options: BenchOptions, rows: list[Row], figure: str) -> list[str]:
    """One message per threshold that the model (the last row) misses."""
    ours, first = rows[-1], rows[0]
    missed = []
    for name, key, limit in ((figure, "fd", options.max_fid), ("PPL", "ppl", options.max_ppl)):
        value = ours.figures.get(key)
        if limit is not None and value is not None and value > limit:
            missed.append(f"{name} {value:.3f} is above {limit:g}")
    if options.min_speedup is not None and ours.time is not None and first.time is not None:
        speedup = first.time.median / ours.time.median
        if speedup < options.min_speedup:
            missed.append(f"{ours.name} is {speedup:.3g} times as fast as {first.name}, not {options.min_speedup:g}")
    return missed
