"""Does gsd run on this GPU, are its results right, how fast is it and how much memory does it take?

    python -m benchmarks.gpu --minutes 15 --out build/gpu [--parts a,b,c,d,e] [--device cuda] [--small]

Takes --minutes. Parts: imports (what is installed; always first), a (all six commands, a resumed run among them), b
(against the CPU), c (images per second, launches and host waits), d (memory of the 256 x 256 configuration), e (a
distillation to its end in the time that is left, and its figures). Each is a process with its own limit. DIR/PART.json
has its rows as they are measured, DIR/PART.log what it printed, and DIR/report.md is written again after each part.
Nothing is downloaded. `--small` tries the script out on a CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
TITLES = {
    "imports": "What is there", "a": "(a) Every command", "b": "(b) Against the CPU", "c": "(c) Images a second",
    "d": "(d) Memory", "e": "(e) A distillation by the clock",
}  # fmt: skip
SHARES = {"imports": 0.08, "a": 0.2, "b": 0.12, "c": 0.25, "d": 0.12, "e": 1.0}
"""Of the minutes, at most; the last part has what is left."""
LEAST, CLOSING = 20.0, 5.0
"""Seconds without which a part is not begun; seconds kept for the report."""
HIDDEN = ("traceback", "table", "stderr", "stdout")


def run_part(part: str, arguments: argparse.Namespace, seconds: float) -> dict[str, Any]:
    """Run a part in its own process; how it ended. Its rows are in DIR/PART.json."""
    words = [sys.executable, "-m", "benchmarks.gpu.parts", part, "--out", str(arguments.out)]
    words += ["--device", arguments.device, "--seconds", f"{seconds:.0f}", *(["--small"] if arguments.small else [])]
    environment = os.environ | {
        "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "GSD_CACHE_DIR": str(arguments.out / "cache"),
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE"),
    }  # fmt: skip
    begun, ended = time.monotonic(), "done"
    with (arguments.out / f"{part}.log").open("wb") as log:
        process = subprocess.Popen(
            words, stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=ROOT, start_new_session=True
        )
        try:
            code = process.wait(timeout=seconds)
            ended = "done" if code == 0 else f"ended with code {code}"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # what it started goes with it
            process.wait()
            ended = f"stopped after its limit of {seconds:.0f} s"
    return {"ended": ended, "seconds": round(time.monotonic() - begun, 1)}


def report(out: Path, endings: dict[str, dict[str, Any]]) -> str:
    """The page: a table a part, and the tracebacks."""
    lines = [
        "# gsd on this machine",
        "",
        "Made by `python -m benchmarks.gpu`; the rows are in the JSON files here.",
        "",
    ]
    for part, ending in endings.items():
        path = out / f"{part}.json"
        rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else {}
        lines += [f"## {TITLES[part]}", "", f"{ending['ended']}, {ending['seconds']} s.", ""]
        lines += ["| row | result |", "| --- | --- |"] if rows else []
        lines += [f"| {_cell(name)} | {_cell(_result(row))} |" for name, row in rows.items()]
        lines.append("")
        for name, row in rows.items():
            if "traceback" in row:
                lines += [f"### {name}", "", "```", row["traceback"].rstrip(), "```", ""]
        if ending["ended"] != "done":
            lines += _end_of(out / f"{part}.log")
    return "\n".join(lines)


def _result(row: dict[str, Any]) -> str:
    if "error" in row:
        return f"FAILED: {row['error'].splitlines()[0][:150]}"
    shown = {k: v for k, v in row.items() if k not in (*HIDDEN, "cpu", "device") or isinstance(v, int | float | str)}
    return ", ".join(f"{key} {_value(key, value)}" for key, value in shown.items() if key not in HIDDEN)


def _value(key: str, value: Any) -> str:
    if key == "peak_memory" and value:
        return f"{value / 2**30:.2f} GiB"
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if isinstance(value, dict):
        return " ".join(f"{k} {v}" for k, v in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _cell(text: str) -> str:
    return text.replace("|", r"\|").replace("\n", " ")


def _end_of(log: Path) -> list[str]:
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    return ["The end of what it printed:", "", "```", text[-3000:].rstrip(), "```", ""]


def main() -> None:
    """Run the parts that fit into the minutes, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--out", type=Path, default=Path("build/gpu"))
    parser.add_argument("--parts", default="a,b,c,d,e", help="with commas between them")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--small", action="store_true", help="reduced sizes, for a CPU")
    arguments = parser.parse_args()
    parts = ["imports", *(part for part in arguments.parts.split(",") if part != "imports")]
    if unknown := [part for part in parts if part not in TITLES]:
        parser.error(f"no such part: {', '.join(unknown)}; there are {', '.join(TITLES)}")
    arguments.out = arguments.out.resolve()
    arguments.out.mkdir(parents=True, exist_ok=True)
    end, endings = time.monotonic() + 60 * arguments.minutes - CLOSING, dict[str, dict[str, Any]]()
    for part in parts:
        left = end - time.monotonic()
        last = part == parts[-1]
        seconds = left if last else min(left, max(LEAST, SHARES[part] * 60 * arguments.minutes))
        (arguments.out / f"{part}.json").unlink(missing_ok=True)
        if left < LEAST:
            endings[part] = {"ended": "not begun: no time was left", "seconds": 0.0}
        else:
            print(f"{TITLES[part]}: {seconds:.0f} s at most", flush=True)
            endings[part] = run_part(part, arguments, seconds)
            print(f"  {endings[part]['ended']}, {endings[part]['seconds']} s", flush=True)
        (arguments.out / "report.md").write_text(report(arguments.out, endings), encoding="utf-8")
        if part == "imports" and "error" in _rows(arguments.out, part).get("packages", {}):
            print(_rows(arguments.out, part)["packages"]["error"], flush=True)
    print(arguments.out / "report.md")


def _rows(out: Path, part: str) -> dict[str, Any]:
    path = out / f"{part}.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else {}
    return found


if __name__ == "__main__":
    main()
