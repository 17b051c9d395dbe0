"""gsd bench: the paper's Table 1 for any generator, live."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from gsd_cli.console import Console, Result
from gsd_cli.errors import ExitCode, GsdError, UsageError
from gsd_cli.interrupts import StopRequest
from gsd_cli.options import BenchOptions
from gsd_cli.paths import require_writable

if TYPE_CHECKING:
    from gsd_cli.metrics.comparison import Row

METRICS = ("fd", "fid", "kid", "pr", "ppl", "isometry", "diversity", "time", "memory", "throughput")
NEEDS = {"max_fid": "fd", "max_ppl": "ppl", "min_speedup": "time"}


def plan(options: BenchOptions) -> list[str]:
    """What a run would do."""
    _wanted(options)
    report = f"; writes {options.report}/" if options.report else ""
    return [f"measures {options.metrics} of the model and of {options.compare}{report}"]


def run(options: BenchOptions, console: Console, stop: StopRequest) -> Result:
    """Measure the model and each baseline, print the table, judge the threshold."""
    wanted = _wanted(options)
    if options.report is not None:
        require_writable(options.report, folder=True)
    from gsd_cli.commands.loading import open_model
    from gsd_cli.core.device import resolve_device
    from gsd_cli.metrics.bench import Bench
    from gsd_cli.metrics.report import table, write_report

    device = resolve_device(options.device)
    model = open_model(options.model, device, console)
    bench = Bench(options, wanted, model, device, console.progress, stop.check)
    rows = bench.rows()
    shown = table(rows, bench.figure, bench.facts())
    metrics = {
        "rows": {row.name: _row_metrics(row) for row in rows},
        "figure": bench.figure,
        "protocol": bench.facts(),
    }
    outputs = write_report(options.report, shown, metrics, bench.pictures()) if options.report else []
    result = Result([str(path) for path in outputs], metrics, shown)
    missed = _missed(options, rows, bench.figure)
    if missed:  # the result is printed all the same
        console.finish("bench", result, options.model_dump(mode="json", by_alias=True))
        raise GsdError("; ".join(missed), code=ExitCode.THRESHOLD)
    return result


def _wanted(options: BenchOptions) -> set[str]:
    """The metrics asked for. Raises UsageError naming all unknown ones."""
    names = [name.strip() for name in options.metrics.split(",")]
    unknown = [f"--metrics: unknown metric {name!r}" for name in names if name not in METRICS]
    wanted = {"fd" if name == "fid" else name for name in names}
    for threshold, metric in NEEDS.items():
        if getattr(options, threshold) is not None and metric not in wanted:
            unknown.append(f"--{threshold.replace('_', '-')} needs {metric} among --metrics")
    if unknown:
        raise UsageError(unknown, hint=f"known: {', '.join(METRICS)}")
    return wanted


def _row_metrics(row: Row) -> dict[str, Any]:
    time = asdict(row.time) if row.time else None
    return {"calls": row.calls, "parameters": row.parameters, **row.figures, "time": time, "protocol": row.protocol}


def _missed(options: BenchOptions, rows: list[Row], figure: str) -> list[str]:
    """The thresholds that the model, the last row, misses."""
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
