"""How faithful are inversions, how Gaussian, and how long do they take?

    python -m benchmarks.latents.inversion --data fashion-test.zip -N 200 --page docs/results/inversion.md

Takes about a quarter of an hour. Writes the page, and under --out its rows as JSON and CSV and the latents found.
It resumes where it stopped: rows that are in --out are not measured again.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.latents.walks import COLUMNS as WALK_COLUMNS
from benchmarks.latents.walks import FRAMES, WAYS, walk_figures
from benchmarks.support.pages import markdown_table, publish
from benchmarks.support.results import Results, Row
from gsd_cli.compute.random import generator_for, latents
from gsd_cli.core.editing.known_attributes import Knowledge
from gsd_cli.core.latents.inversion import Inversion, encoder_features, invert
from gsd_cli.core.models.fingerprint import weights_fingerprint
from gsd_cli.core.models.generator import generate, load_model
from gsd_cli.core.models.sphere import slerp
from gsd_cli.core.models.teacher import load_teacher
from gsd_cli.data.dataset import ImageArchive

PRIORS = (0.0, 0.1, 1.0, 10.0)
STEPS = (20, 40, 80, 160)
COLUMNS = ("psnr", "psnr_p5", "feature_distance", "correlation", "kurtosis", "outside", "midpoint", "seconds")
NAMES = (
    "", "N", "PSNR, dB", "5th percentile", "feature distance", "lag-1 correlation", "kurtosis", "outside bounds",
    "midpoint confidence", "s per image",
)  # fmt: skip
PAGE = """# Inversion: measured

Inversions of held-out test images have a median PSNR of {held[psnr]:.3g} dB and take {held[seconds]:.3g} s per image.

    {command}

{about}
* machine: {machine}

{table}

Figures are medians over images, with three exceptions:

- *5th percentile* is that of the PSNR.
- *Outside bounds* is the share of latents outside Gaussian bounds: four standard deviations of what N(0, I) shows in
  norm, lag-1 correlation and kurtosis.
- *Midpoint confidence* is the domain classifier's mean top probability for images halfway between two inverted latents.
  The row "true noise" gives it for seeds.

The rows `prior` and `steps` vary one option of `gsd interpolate` and `gsd edit` on the first images. The defaults are
`--invert-prior 1` and `--invert-steps 80`.

## Walks between held-out images, {frames} frames

{walks}

The walks join neighbours among the latents of the first row. Lengths are measured in the generator's own features.
"""


class Laboratory:
    """What all rows share."""

    def __init__(self, args: argparse.Namespace):
        self.args = args
        self.model = load_model(args.model)
        self.generator = self.model.generator.eval().requires_grad_(False)
        self.features = encoder_features(self.generator)
        self.teacher = load_teacher(self.model.teacher, offline=True).denoiser if self.model.teacher else None
        self.knowledge = Knowledge(self.model)
        archive = ImageArchive(args.data)
        order = torch.randperm(len(archive), generator=generator_for(args.seed, "inversion-benchmark"))
        self.real = archive.batch(order[: args.number])
        seeds = range(10_000, 10_000 + args.number)
        self.own = generate(self.generator, latents(seeds, self.generator.latent_shape), 64).clamp(-1, 1)

    def row(self, images: Tensor, kept: Path | None = None, **settings: Any) -> Row:
        """Invert images in batches and judge; the latents are written to `kept`."""
        begun, found = time.perf_counter(), []
        settings = {"teacher": self.teacher} | settings
        for part in images.split(self.args.batch):
            found.append(invert(self.generator, part, self.features, **settings))
        seconds = (time.perf_counter() - begun) / len(images)
        if kept is not None:
            kept.parent.mkdir(parents=True, exist_ok=True)
            save_file({"z": torch.cat([one.z for one in found])}, kept)
        return {"n": len(images), "seconds": seconds} | self.judged(found)

    def judged(self, found: list[Inversion]) -> Row:
        """Medians over images; `outside` is the share of latents outside Gaussian bounds."""
        psnr = sorted(p for one in found for p in one.psnr)
        gaussian = [g for one in found for g in one.gaussianity]
        return {
            "psnr": statistics.median(psnr),
            "psnr_p5": psnr[len(psnr) // 20],
            "feature_distance": statistics.median(d for one in found for d in one.feature_distance),
            "correlation": statistics.median(abs(g.correlation) for g in gaussian),
            "kurtosis": statistics.median(g.kurtosis for g in gaussian),
            "outside": sum(bool(g.strange) for g in gaussian) / len(gaussian),
            "midpoint": self.midpoint(torch.cat([one.z for one in found])),
        }

    @torch.no_grad()
    def midpoint(self, z: Tensor) -> float:
        """The classifier's mean confidence in images halfway between neighbours: near that of the
        generator's own samples where latents are still noise to it; nan without a classifier."""
        if self.knowledge.classifier is None:
            return float("nan")
        images = generate(self.generator, slerp(z, z.roll(1, 0), 0.5), 64)
        return self.knowledge.classifier(images).softmax(1).amax(1).mean().item()


def main() -> None:
    """Measure what is missing, write the page."""
    args = arguments()
    torch.set_num_threads(args.threads)
    lab = Laboratory(args)
    protocol = {"model": weights_fingerprint(lab.model.folder), "N": args.number, "curve": args.curve}
    protocol |= {"seed": args.seed, "batch": args.batch, "threads": args.threads}
    rows = Results(Path(args.out) / "inversion.json", protocol)
    walked = Results(Path(args.out) / "walks.json", protocol)
    kept = Path(args.out) / "latents.safetensors"
    rows.measure_once("held-out test images", lambda: lab.row(lab.real, kept))
    rows.measure_once("the generator's own samples", lambda: lab.row(lab.own))
    found = load_file(kept)["z"]
    for way in WAYS:
        walked.measure_once(way, partial(walk_figures, lab.generator, found, way))
    few = lab.real[: args.curve]
    for weight in PRIORS:
        rows.measure_once(f"prior {weight:g}", partial(lab.row, few, prior_weight=weight))
    for steps in STEPS:
        rows.measure_once(f"steps {steps}", partial(lab.row, few, steps=steps))
    rows.measure_once("without the teacher", lambda: lab.row(few, teacher=None))
    rows.measure_once("one image alone", lambda: lab.row(lab.real[:1]))
    noise = latents(range(args.number), lab.generator.latent_shape, "true-noise")
    rows.measure_once("true noise", lambda: {"midpoint": lab.midpoint(noise)})
    shown = [[name, row.get("n", ""), *(row.get(key, "") for key in COLUMNS)] for name, row in rows.rows.items()]
    publish(
        PAGE,
        args.page,
        held=rows.rows["held-out test images"],
        about="\n".join(f"* {name}: {value}" for name, value in protocol.items()),
        table=markdown_table(NAMES, shown),
        walks=markdown_table(WALK_COLUMNS, [[name, *row.values()] for name, row in walked.rows.items()]),
        frames=FRAMES,
    )


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="fashion")
    parser.add_argument("--data", type=Path, required=True, help="held-out prepared images")
    parser.add_argument("-N", "--number", type=int, default=200)
    parser.add_argument("--curve", type=int, default=16, help="images in the rows that vary an option")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", default="runs/inversion")
    parser.add_argument("--page", type=Path, help="the page to write")
    return parser.parse_args()


if __name__ == "__main__":
    main()
