"""How much longer does a command take on a machine whose other core is busy?

    python -m benchmarks.cli.busy [--rounds 3] [--loops 1] [--command distill --teacher ddpm-fashion ...]

Times a command alone and next to busy loops, in turns, and prints the ratio of the medians: a machine that is busy
anyway slows both. It also prints the ratio with threads that spin while they wait (OMP_WAIT_POLICY=ACTIVE), which gsd
turns off. The command is by default a short version of the first one in the README. Keeps no file. The goal is a ratio
of at most 2 on an otherwise idle machine of two cores.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

GSD = [sys.executable, "-m", "gsd_cli"]
DISTILL = ["distill", "--teacher", "ddpm-fashion", "--preset", "quick", "--steps", "6", "--eval-samples", "64"]
BUSY = "while True: pass"
CASES = {"alone": (False, "PASSIVE"), "busy": (True, "PASSIVE"), "busy, threads that spin": (True, "ACTIVE")}


@contextmanager
def busy_loops(count: int) -> Iterator[None]:
    """A context in which `count` processes do nothing but compute."""
    loops = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def seconds(command: list[str], policy: str) -> float:
    """Wall seconds of one process. Raises CalledProcessError if it fails."""
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        output = ["-o", f"{folder}/out"] if "-o" not in command else []
        environment = os.environ | {"OMP_WAIT_POLICY": policy}
        subprocess.run([*GSD, *command, *output], env=environment, capture_output=True, check=True)
        return time.perf_counter() - begun


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--loops", type=int, default=1)
    parser.add_argument("--command", nargs=argparse.REMAINDER, default=DISTILL)
    arguments = parser.parse_args()
    times: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(arguments.rounds):
        for name, (busy, policy) in CASES.items():
            with busy_loops(arguments.loops if busy else 0):
                times[name].append(seconds(arguments.command, policy))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(f"gsd {' '.join(arguments.command)}")
    print(f"{arguments.rounds} rounds, {arguments.loops} busy loops, {cores} cores, load {os.getloadavg()[0]:.1f}")
    print("| case | seconds (median) | ratio |")
    print("| --- | ---: | ---: |")
    alone = statistics.median(times["alone"])
    for name, values in times.items():
        print(f"| {name} | {statistics.median(values):.1f} | {statistics.median(values) / alone:.2f} |")


if __name__ == "__main__":
    main()
