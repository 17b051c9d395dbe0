"""What directions achieve, attribute by attribute and space by space: every figure of docs/results/editing.md.

    python benchmarks/editing.py -N 200 --page docs/results/editing.md
    python benchmarks/editing.py --model runs/plain --out runs/editing-plain   # distilled with --irl off
    python benchmarks/editing.py --store gsd_cli/assets/fashion/directions     # keep what was found with the model

Run again, it goes on where it stopped: rows that are in --out are not measured again.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch
from rows import Row, Rows, markdown

from gsd_cli.core.directions import Direction, preserving, save_directions
from gsd_cli.core.fingerprint import weights_fingerprint
from gsd_cli.core.generator import generate, load_model
from gsd_cli.core.inversion import encoder_features
from gsd_cli.core.knowledge import TRAITS, Knowledge
from gsd_cli.core.noise import latents
from gsd_cli.core.supervised import Attribute, fit, gather, mean_gradients
from gsd_cli.core.walks import cross_fade, step_lengths, unevenness, walk
from gsd_cli.metrics.editing import edit_figures

COLUMNS = (
    "how", "auroc", "success", "leakage", "leakage_each", "monotonicity", "class_kept", "feature_distance",
)  # fmt: skip
FRAMES = 16
GEODESICS = 4
"""Pairs joined by geodesics, which cost a hundred times the others."""


class Laboratory:
    """What all rows share; directions are found when the first row asks for them."""

    def __init__(self, args: argparse.Namespace):
        self.args = args
        self.model = load_model(args.model)
        self.generator = self.model.generator.eval().requires_grad_(False)
        self.knowledge = Knowledge(self.model)
        self.attributes = self.knowledge.built_in()
        seeds = range(50_000 + args.seed * 1000, 50_000 + args.seed * 1000 + args.number)
        self.z = latents(seeds, self.generator.latent_shape)
        self.found: dict[str, list[Direction]] = {}
        self._shared: tuple[Any, Any] | None = None

    def directions(self, target: Attribute) -> list[Direction]:
        """The best direction of each space."""
        if self._shared is None:
            samples = self.args.samples
            pool = gather(self.generator, self.attributes, 64, samples)
            self._shared = pool, mean_gradients(self.generator, self.attributes, 64, max(16, samples // 10))
        if target.name not in self.found:
            pool, gradients = self._shared
            self.found[target.name] = fit(self.generator, target, TRAITS, pool, gradients, 64)
        return self.found[target.name]

    def row(self, target: Attribute, space: str, preserve: bool = False) -> Row:
        """Figures of one direction; empty where there is none in that space."""
        listed = self.directions(target)
        match = [d for d in listed if d.space == space]
        if not match:
            return {}
        direction = match[0]
        if preserve:
            others = [d for t in TRAITS if t.name != target.name for d in self.directions(t) if d.space == space]
            direction = preserving(direction, others)
        assert self._shared is not None
        deviations = self._shared[0].deviations()
        figures = edit_figures(self.generator, direction, target, TRAITS, deviations, self.z, self.knowledge)
        return {"n": len(self.z), "default": listed[0].space == space, "how": direction.how, **figures}

    def store(self, folder: Path) -> None:
        """Write every direction as `gsd edit` reads it from a model's folder."""
        about = {"model": weights_fingerprint(self.model.folder), "class": None, "source": "built in"}
        for target in self.attributes:
            path = folder / f"{quote(target.name, safe='')}.safetensors"
            save_directions(path, self.directions(target), about | {"samples": self.args.samples})

    def walks(self, path: str) -> Row:
        """Largest over mean step and length, mean over pairs of neighbours, of walks and of cross-fading."""
        features = encoder_features(self.generator)
        uneven, length = [], []
        pairs = list(zip(self.z[:-1:2], self.z[1::2], strict=False))
        for a, b in pairs[:GEODESICS] if path == "geodesic" else pairs:
            if path == "cross-fade":
                ends = generate(self.generator, torch.stack([a, b]), 2)
                steps = step_lengths(cross_fade(ends[0], ends[1], FRAMES), features)
            else:
                steps = walk(a, b, FRAMES, path, lambda z, _: self.generator(z), features).steps
            uneven.append(unevenness(steps))
            length.append(steps.sum().item())
        n = len(uneven)
        return {"pairs": n, "largest_over_mean": sum(uneven) / n, "worst": max(uneven), "length": sum(length) / n}


def main(argv: list[str]) -> None:
    """Measure what is missing, write the page."""
    args = arguments(argv)
    torch.set_num_threads(args.threads)
    lab = Laboratory(args)
    protocol = {"model": weights_fingerprint(lab.model.folder), "N": args.number, "seed": args.seed}
    rows = Rows(Path(args.out) / "editing.json", protocol | {"fit_samples": args.samples})
    for path in ("uniform", "slerp", "lerp", "geodesic", "cross-fade"):
        rows.once(f"walk: {path}", lambda path=path: lab.walks(path))
    for target in lab.attributes:
        for space in ("latent", "bottleneck"):
            rows.once(f"{target.name}, {space}", lambda target=target, space=space: lab.row(target, space))
    for target in TRAITS:
        rows.once(f"{target.name}, preserving", lambda target=target: lab.row(target, "latent", preserve=True))
    if args.store is not None:
        lab.store(args.store)
    if args.page is not None:
        args.page.parent.mkdir(parents=True, exist_ok=True)
        args.page.write_text(page(rows, argv), encoding="utf-8")


def page(rows: Rows, argv: list[str]) -> str:
    """The results as markdown."""
    about = "\n".join(f"* {name}: {value}" for name, value in rows.protocol.items())
    walked = {name.removeprefix("walk: "): row for name, row in rows.rows.items() if name.startswith("walk")}
    edits = {name: row for name, row in rows.rows.items() if "success" in row}
    shown = [
        [f"{name} *" if row["default"] else name, *(row.get(c, "") for c in COLUMNS)] for name, row in edits.items()
    ]
    walk_columns = ["path", "pairs", "largest over mean step", "worst", "perceptual length"]
    return f"""# Walks and edits: measured

    python benchmarks/editing.py {shlex.join(argv)}

{about}
* machine: {os.cpu_count()} CPU cores, no GPU; torch {torch.__version__}

## Walks between seeds, {FRAMES} frames

{markdown(walk_columns, [[name, *row.values()] for name, row in walked.items()])}

## Edits

{markdown(["direction", *(c.replace("_", " ") for c in COLUMNS)], shown)}

`*`: the space that `gsd edit` takes. What the columns are: `gsd_cli/metrics/editing.py`. Rows `preserving` have the
other measurable attributes projected out.
"""


def arguments(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="fashion")
    parser.add_argument("-N", "--number", type=int, default=200, help="pictures edited for each direction")
    parser.add_argument("--samples", type=int, default=1024, help="samples that directions are found on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", default="runs/editing")
    parser.add_argument("--store", type=Path, help="write the directions into this folder")
    parser.add_argument("--page", type=Path, help="the page to write")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main(sys.argv[1:])
