"""Single settings of gsd distill at equal images: discriminator, noise levels, learning rates, reused images, student.

    python benchmarks/levers.py --data fashion.zip [--kimg 10] [--seeds 0] [--out build/levers] [--page PAGE.md]

Every lever is a `gsd distill` of its own from the same start, latents and noise; its figures are the last evaluation in
its metrics.jsonl. Runs and rows are kept: started again, it resumes where it stopped. DATA holds the real images, made
with `gsd prepare fashion-mnist --size 32 -o fashion.zip`.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from pages import publish
from rows import Rows, markdown

from gsd_cli.core.training.log import read_metrics

LEVERS: dict[str, tuple[str, ...]] = {
    "default": (),
    "adversarial off": ("--adversarial", "off"),
    "adversarial 0.5": ("--adversarial", "0.5"),
    "adversarial 4": ("--adversarial", "4"),
    "discriminator penalty 0.01": ("--discriminator-penalty", "0.01"),
    "discriminator lr 3e-4": ("--discriminator-lr", "3e-4"),
    "noise ddpm": ("--noise", "ddpm"),
    "fake lr 1e-4": ("--fake-lr", "1e-4"),
    "fake steps 2": ("--fake-steps", "2"),
    "reuse images": ("--reuse-images",),
    "alpha 1.2": ("--alpha", "1.2"),
    "irl off": ("--irl", "off"),
    "irl ratio 0.1": ("--irl-ratio", "0.1"),
    "student depth 2": ("--student-depth", "2"),
    "student width 2": ("--student-width", "2"),
}
FIGURES = {
    "fd": "FD",
    "precision": "precision",
    "recall": "recall",
    "speed_cv": "speed CV",
    "spearman": "Spearman",
    "pair_distance": "pair distance",
}

PAGE = """# Single settings, at equal images

    {command}

Teacher `{teacher}`, {kimg} thousand images a run, all else as `--preset quick`, seeds {seeds}; mean ± standard
deviation over seeds where there are several. {machine}. FD: `FD-fashion` of {samples} samples, biased upwards at
small N, comparable at equal N only. A second step of the fake score costs its time on top.

{table}
"""


def distil(lever: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Run or finish one distillation; its last figures."""
    run = options.out / "runs" / f"{lever.partition(' (')[0].replace(' ', '-')}-seed{seed}"
    command = ["distill", "--teacher", options.teacher, "--kimg", f"{options.kimg:g}", "--seed", str(seed)]
    command += ["--eval-every", f"{options.kimg:g}", "--eval-samples", str(options.samples), *LEVERS[lever]]
    command += ["--data", str(options.data), "-o", str(run)]
    print("gsd", shlex.join(command), file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-m", "gsd_cli", *command], check=True, stdout=subprocess.DEVNULL)
    last = read_metrics(run / "metrics.jsonl")[-1]
    return {"lever": lever, "seed": seed, "images": last["images"], **{key: last[key] for key in FIGURES}}


def table(found: list[dict[str, Any]], levers: list[str]) -> str:
    """A row for each lever."""
    lines = []
    for lever in levers:
        rows = [row for row in found if row["lever"] == lever]
        lines.append([lever, *(_spread([float(row[key]) for row in rows]) for key in FIGURES)])
    return markdown(["setting", *FIGURES.values()], lines)


def _spread(values: list[float]) -> str:
    return f"{mean(values):.3g}" + (f" ± {stdev(values):.2g}" if len(values) > 1 else "")


def main() -> None:
    """Distil, tabulate, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="ddpm-fashion")
    parser.add_argument("--data", type=Path, required=True, help="prepared real images")
    parser.add_argument("--kimg", type=float, default=10.0)
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--levers", help=f"some of: {', '.join(LEVERS)}; separated by commas")
    parser.add_argument("--out", type=Path, default=Path("build/levers"))
    parser.add_argument("--page", type=Path)
    options = parser.parse_args()
    levers = options.levers.split(",") if options.levers else list(LEVERS)
    protocol = {"teacher": options.teacher, "kimg": options.kimg, "samples": options.samples}
    rows = Rows(options.out / "levers.json", protocol)
    found = [
        rows.once(f"{lever}, seed {seed}", lambda one=lever, at=int(seed): distil(one, at, options))
        for seed in options.seeds.split(",")
        for lever in levers
    ]
    publish(PAGE, options.page, table=table(found, levers), seeds=options.seeds, **protocol)


if __name__ == "__main__":
    main()
