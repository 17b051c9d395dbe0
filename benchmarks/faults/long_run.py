"""In a long distillation, does memory stay flat, do files stay bounded and does the rate stay constant?

    python -m benchmarks.faults.long_run [--steps 20000] [--out build/long_run] [--every 10]

Takes forty minutes. Prints a table of slopes, and writes notes.csv and the run under --out. Started again it resumes:
gsd resumes the run, and new notes follow the old ones. It runs `gsd distill` on a toy model as a process, and notes
every few seconds the step, the resident memory, the open files and the size of the run folder. The slopes leave out the
first tenth of the steps, in which caches fill and libraries load.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import time
from itertools import pairwise
from pathlib import Path

import numpy as np

from benchmarks.faults.kills import workshop
from benchmarks.support.pages import markdown_table
from gsd_cli.core.training.log import read_metrics
from tests.support.shell import DISTILL, Shell

COLUMNS = ("session", "seconds", "step", "rss_mb", "open_files", "files", "folder_mb")


def watch(shop: Shell, steps: int, notes: Path, every: float) -> None:
    """Run or resume the distillation to its end, and write a line of notes at regular intervals."""
    run = shop.folder / "long"
    session = 1 + max((int(row["session"]) for row in _read(notes)), default=0)
    evaluations = ("--eval-every", str(8 * steps / 20 / 1000))  # twenty images in all
    process = shop.start(*DISTILL, "--steps", str(steps), *evaluations, "-o", "long", "-q")
    begun, new = time.monotonic(), not notes.exists()
    with notes.open("a", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(COLUMNS)
        while process.poll() is None:
            time.sleep(every)
            rows = read_metrics(run / "metrics.jsonl")
            if rows and process.poll() is None:
                found = [path.stat().st_size for path in run.rglob("*") if path.is_file()]
                memory, opened = _memory(process)
                seconds = round(time.monotonic() - begun, 2)
                writer.writerow([session, seconds, rows[-1]["step"], memory, opened, len(found), sum(found) / 1e6])
                file.flush()
    _, err = process.communicate()
    if process.returncode != 0:
        raise SystemExit(err.decode())


def _memory(process: subprocess.Popen[bytes]) -> tuple[float, int]:
    """Resident MB and open files of a process."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    resident = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(resident.split()[1]) / 1000, len(list(Path(f"/proc/{process.pid}/fd").iterdir()))


def _read(notes: Path) -> list[dict[str, str]]:
    if not notes.exists():
        return []
    with notes.open(newline="") as file:
        return list(csv.DictReader(file))


def report(notes: Path, steps: int) -> str:
    """A table of slopes per 1,000 steps and extremes, over the last nine tenths of the steps."""
    rows = [row for row in _read(notes) if int(row["step"]) >= steps / 10]
    if len(rows) < 3:
        raise SystemExit("too short to tell: fewer than three notes after the first tenth; take a smaller --every")
    step = np.array([int(row["step"]) for row in rows])
    table = []
    for name in COLUMNS[3:]:
        values = np.array([float(row[name]) for row in rows])
        slope, error = _slope(step / 1000, values)
        table.append([name, f"{values.min():.1f}", f"{values.max():.1f}", f"{slope:+.3f} ± {error:.3f}"])
    half = len(rows) // 2
    early, late = _rate(rows[: half + 1]), _rate(rows[half:])
    change = f"{late / early - 1:+.1%} in all" if early else "too short to tell"
    table.append(["steps per second, by halves", f"{early:.1f}", f"{late:.1f}", change])
    return markdown_table(["figure", "least", "most", "slope per 1,000 steps"], table)


def _slope(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Least squares, and its standard error; notes that follow each other are not independent, so it is a lower one."""
    centred = x - x.mean()
    spread = max(float((centred**2).sum()), 1e-12)
    slope = float((centred * y).sum()) / spread
    left = y - y.mean() - slope * centred
    return slope, float((left**2).sum() / max(1, len(x) - 2) / spread) ** 0.5


def _rate(rows: list[dict[str, str]]) -> float:
    """Steps a second; the time between sessions does not count."""
    pairs = [(a, b) for a, b in pairwise(rows) if a["session"] == b["session"]]
    seconds = sum(float(b["seconds"]) - float(a["seconds"]) for a, b in pairs)
    return sum(int(b["step"]) - int(a["step"]) for a, b in pairs) / max(seconds, 1e-9)


def main() -> None:
    """Run, watch, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--out", type=Path, default=Path("build/long_run"))
    parser.add_argument("--every", type=float, default=10.0)
    options = parser.parse_args()
    shop = workshop(options.out.resolve() / "workshop")
    notes = options.out / "notes.csv"
    watch(shop, options.steps, notes, options.every)
    print(report(notes, options.steps))


if __name__ == "__main__":
    main()
