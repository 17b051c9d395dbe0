"""How fast does gsd answer, compared with a bare typer hello-world?

    python -m benchmarks.cli.startup [--rounds 21]

Takes two minutes and prints a table; writes no file. Each case of gsd and the same case of the hello-world take turns.
The table has the medians of the rounds' ratios: of CPU time (user and system, of the child alone), which a busy machine
disturbs least, and of wall time. Last comes the time from the start of a command to its first word on stderr.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HELLO = """
import typer
app = typer.Typer()
@app.command()
def main(name: str = "world"):
    print("hello", name)
app(prog_name="hello")
"""
COMPLETE = {"_TYPER_COMPLETE_FISH_ACTION": "get-args"}
CASES: dict[str, tuple[list[str], list[str], dict[str, str]]] = {
    "gsd --help": (["--help"], ["--help"], {}),
    "gsd --version": (["--version"], [], {}),
    "gsd distill --help": (["distill", "--help"], ["--help"], {}),
    "gsd distill --teecher x": (["distill", "--teecher", "x"], ["--naem", "x"], {}),
    "gsd distill --lr -1": (["distill", "--lr", "-1"], ["--naem", "x"], {}),
    "completion": ([], [], COMPLETE | {"_TYPER_COMPLETE_ARGS": "gsd distill --te", "_GSD_COMPLETE": "complete_fish",
                                       "_HELLO_COMPLETE": "complete_fish"}),
}  # fmt: skip
GSD = [sys.executable, "-m", "gsd_cli"]


def cost(command: list[str], extra: dict[str, str]) -> tuple[float, float]:
    """Wall and CPU seconds of one process."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, env=os.environ | extra, capture_output=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - start, cpu


def first_word(folder: Path) -> float:
    """Seconds from the start of `gsd sample` to the first bytes on stderr."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [*GSD, "sample", "-N", "1", "-o", str(folder / "x.png")], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    assert process.stderr is not None
    process.stderr.read(1)
    seconds = time.perf_counter() - start
    process.kill()
    process.wait()
    return seconds


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=21)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "hello.py").write_text(HELLO)
        hello = [sys.executable, str(folder / "hello.py")]
        print(
            f"{rounds} rounds; python {sys.version.split()[0]}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
        )
        print("| case | hello-world, CPU s | gsd, CPU s | ratio of CPU | ratio of wall |")
        print("| --- | ---: | ---: | ---: | ---: |")
        for case, (ours, theirs, extra) in CASES.items():
            pairs = [(cost([*GSD, *ours], extra), cost([*hello, *theirs], extra)) for _ in range(rounds)]
            wall, cpu = (statistics.median(g[i] / h[i] for g, h in pairs) for i in (0, 1))
            times = [statistics.median(side[1] for side in sides) for sides in zip(*pairs, strict=True)]
            print(f"| `{case}` | {times[1]:.3f} | {times[0]:.3f} | {cpu:.2f} | {wall:.2f} |")
        words = [first_word(folder) for _ in range(max(3, rounds // 3))]
        bare = [cost([*hello], {})[0] for _ in words]
        first, whole = statistics.median(words), statistics.median(bare)
        print(f"first word of gsd sample: {first:.2f} s (hello-world from start to end: {whole:.2f} s)")


if __name__ == "__main__":
    main()
