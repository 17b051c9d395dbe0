"""How do Frechet distance and speed variation change over a run, and against each other?

    python -m benchmarks.distillation.distance_curves runs/quick runs/standard [--out docs/results/distance]

Takes seconds: it reads each run's metrics.jsonl, and trains or measures nothing. Writes OUT.csv and OUT.png. Runs that
are already in the CSV stay there; a run that is given again is replaced.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, ScalarFormatter

from gsd_cli.base.atomic import atomic_file
from gsd_cli.core.training.log import read_metrics

COLUMNS = ("run", "step", "images", "fd", "speed_cv", "spearman", "pair_distance")
COUNTS = ("step", "images")


def evaluations(run: Path) -> list[dict[str, object]]:
    """The rows of a run in which its distance was measured."""
    rows = [row for row in read_metrics(run / "metrics.jsonl") if row.get("fd") is not None]
    if not rows:
        raise SystemExit(f"{run}: no Frechet distance was measured")
    return [{"run": run.name, **{key: row.get(key) for key in COLUMNS[1:]}} for row in rows]


def known(path: Path) -> dict[str, list[dict[str, object]]]:
    """The rows of a CSV of before, by run."""
    found: dict[str, list[dict[str, object]]] = {}
    if path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                numbers = {key: (int if key in COUNTS else float)(row[key]) for key in COLUMNS[1:]}
                found.setdefault(row["run"], []).append({"run": row["run"], **numbers})
    return found


def draw(found: Sequence[list[dict[str, object]]], target: Path) -> None:
    """Distances on a scale that shows a start of 76 next to an end of 5."""
    canvas = Figure(figsize=(10.5, 3.6), layout="constrained")
    distance, speed, both = canvas.subplots(1, 3)
    for rows in found:
        images = [float(str(row["images"])) / 1000 for row in rows]
        label = str(rows[0]["run"])
        distance.plot(images, [row["fd"] for row in rows], marker=".", label=label)
        speed.plot(images, [row["speed_cv"] for row in rows], marker=".", label=label)
        both.plot([row["fd"] for row in rows], [row["speed_cv"] for row in rows], marker=".", label=label)
    distance.set_yscale("log")
    both.set_xscale("log")
    for axis in (distance.yaxis, both.xaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(ScalarFormatter())
        axis.set_minor_formatter("")
    distance.set_title("Frechet distance", fontsize=10)
    speed.set_title("variation of the speed", fontsize=10)
    both.set_title("variation against distance", fontsize=10)
    both.set_xlabel("Frechet distance")
    for axes in (speed, both):
        axes.set_ylim(bottom=0)
    for axes in (distance, speed):
        axes.set_xlabel("thousand images seen")
    for axes in (distance, speed, both):
        axes.grid(alpha=0.3, which="both")
    distance.legend(fontsize=8)
    with atomic_file(target) as temporary:
        canvas.savefig(temporary, dpi=110)


def main() -> None:
    """Write OUT.csv and OUT.png."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=Path("build/distance"))
    options = parser.parse_args()
    by_run = known(options.out.with_suffix(".csv")) | {run.name: evaluations(run) for run in options.runs}
    found = list(by_run.values())
    with atomic_file(options.out.with_suffix(".csv")) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(row for rows in found for row in rows)
    draw(found, options.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
