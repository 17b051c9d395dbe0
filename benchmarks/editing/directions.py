"""What do editing directions achieve, attribute by attribute and space by space?

    python -m benchmarks.editing.directions -N 200 --page docs/results/editing.md
    python -m benchmarks.editing.directions --store gsd_cli/assets/fashion/directions   # keep them with the model

Takes about an hour. Writes a section of the page, its rows as JSON and CSV under --out, and with --store the
directions. It resumes where it stopped: rows that are in --out are not measured again.
"""

from __future__ import annotations

import argparse
import os
from functools import partial
from itertools import permutations
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch

from benchmarks.latents.walks import COLUMNS as WALK_COLUMNS
from benchmarks.latents.walks import FRAMES, WAYS, walk_figures
from benchmarks.support.pages import markdown_table, publish
from benchmarks.support.results import Results, Row
from gsd_cli.catalogue.model_facts import COMPONENTS
from gsd_cli.compute.random import latents
from gsd_cli.core.editing.direction import Direction, orthogonalise, save_directions
from gsd_cli.core.editing.known_attributes import TRAITS, Knowledge
from gsd_cli.core.editing.response import respond
from gsd_cli.core.editing.supervised import Attribute, fit, gather, mean_gradients
from gsd_cli.core.editing.unsupervised import principal_directions
from gsd_cli.core.models.fingerprint import weights_fingerprint
from gsd_cli.core.models.generator import load_model
from gsd_cli.metrics.edit_quality import edit_figures

COLUMNS = (
    "how", "auroc", "success", "leakage", "leakage_each", "monotonicity", "class_kept", "feature_distance",
)  # fmt: skip
PAGE = """## Walks between seeds, and directions

{result}

    {command}

{about}
* machine: {machine}

### Walks of {frames} frames

{walks}

### Edits along directions

{edits}

`*`: the space that `gsd edit` uses. `gsd_cli/metrics/edit_quality.py` defines the columns. For classes, the success is
the share of images of other classes that the classifier assigns to the class at some strength up to 4.

### One attribute preserved while another is edited

{preserving}

Edits are made in the latent, at strengths from -2 to 2. *Moves* is how much the preserved attribute moves with the
edited one, without `--preserve` and with it, in standard deviations per standard deviation of the edited attribute.
Each is the mean over images of the change from strength -2 to strength 2. *Reached* is the share of the requested
change that the edit achieves with `--preserve`.
"""


class Laboratory:
    """What all rows share; directions are found when the first row asks for them."""

    def __init__(self, model: str, number: int, samples: int, seed: int):
        self.model, self.samples = load_model(model), samples
        self.generator = self.model.generator.eval().requires_grad_(False)
        self.knowledge = Knowledge(self.model)
        self.attributes = self.knowledge.built_in()
        seeds = range(50_000 + seed * 1000, 50_000 + seed * 1000 + number)
        self.z = latents(seeds, self.generator.latent_shape)
        self.found: dict[str, list[Direction]] = {}
        self._shared: tuple[Any, Any] | None = None

    def directions(self, target: Attribute) -> list[Direction]:
        """The best direction of each space."""
        if self._shared is None:
            pool = gather(self.generator, self.attributes, 64, self.samples)
            self._shared = pool, mean_gradients(self.generator, self.attributes, 64, max(16, self.samples // 10))
        if target.name not in self.found:
            pool, gradients = self._shared
            self.found[target.name] = fit(self.generator, target, TRAITS, pool, gradients, 64)
        return self.found[target.name]

    def row(self, target: Attribute, space: str) -> Row:
        """Figures of one direction; empty where there is none in that space."""
        listed = self.directions(target)
        match = [d for d in listed if d.space == space]
        if not match:
            return {}
        direction = match[0]
        assert self._shared is not None
        deviations = self._shared[0].deviations()
        figures = edit_figures(self.generator, direction, target, TRAITS, deviations, self.z, self.knowledge)
        return {"n": len(self.z), "default": listed[0].space == space, "how": direction.how, **figures}

    def preserved(self, target: Attribute, other: Attribute) -> Row:
        """What editing one measurable attribute does to another, without --preserve and with it."""
        direction, kept = (next(d for d in self.directions(t) if d.space == "latent") for t in (target, other))
        assert self._shared is not None
        deviations = self._shared[0].deviations()
        measures = {t.name: t.score for t in (target, other)}
        row: Row = {}
        for name, tried in (("without", direction), ("with", orthogonalise(direction, [kept]))):
            seen = respond(self.generator, tried, self.z, (-2.0, 2.0), measures, deviations, 64)
            moved = {t: (seen.change(t)[1] - seen.change(t)[0]).mean().item() / 4 for t in measures}
            row |= {name: moved[other.name] / moved[target.name], f"reached_{name}": moved[target.name]}
        return row

    def store(self, folder: Path) -> None:
        """Write every direction as `gsd edit` reads it from a model's folder."""
        model = weights_fingerprint(self.model.folder)
        about: dict[str, Any] = {"model": model, "class": None, "source": "built in"}
        for target in self.attributes:
            path = folder / f"{quote(target.name, safe='')}.safetensors"
            save_directions(path, self.directions(target), about | {"samples": self.samples})
        found = principal_directions(self.generator, 64, self.samples)
        about = {"model": model, "class": None, "samples": self.samples}
        save_directions(folder / f"{COMPONENTS}.safetensors", found, about)


def main() -> None:
    """Measure what is missing, write the page."""
    args = arguments()
    torch.set_num_threads(args.threads)
    lab = Laboratory(args.model, args.number, args.samples, args.seed)
    protocol = {"model": weights_fingerprint(lab.model.folder), "N": args.number, "seed": args.seed}
    protocol |= {"fit_samples": args.samples}
    rows = Results(Path(args.out) / "editing.json", protocol)
    walked = Results(Path(args.out) / "walks.json", protocol)
    for way in WAYS:
        walked.measure_once(way, partial(walk_figures, lab.generator, lab.z, way))
    for target in lab.attributes:
        for space in ("latent", "bottleneck"):
            rows.measure_once(f"{target.name}, {space}", partial(lab.row, target, space))
    kept = Results(Path(args.out) / "preserving.json", protocol)
    for target, other in permutations(TRAITS, 2):
        name = f"{target.name}, preserving {other.name}"
        kept.measure_once(name, partial(lab.preserved, target, other))
    if args.store is not None:
        lab.store(args.store)
    even, plain = (walked.rows[way]["largest_over_mean"] for way in ("uniform", "slerp"))
    used = sum(bool(row.get("default")) for name, row in rows.rows.items() if name.endswith(", latent"))
    publish(
        PAGE,
        args.page,
        result=f"The largest step of a walk is {even:.3g} times its mean step with `uniform` and {plain:.3g} times "
        f"with `slerp`, and `gsd edit` uses the latent for {used} of {len(lab.attributes)} attributes.",
        about="\n".join(f"* {name}: {value}" for name, value in protocol.items()),
        walks=markdown_table(WALK_COLUMNS, [[name, *row.values()] for name, row in walked.rows.items()]),
        frames=FRAMES,
        edits=edits(rows.rows),
        preserving=markdown_table(
            ["edit", "moves without", "moves with", "reached with"],
            [[name, row["without"], row["with"], row["reached_with"]] for name, row in kept.rows.items()],
        ),
    )


def edits(rows: dict[str, Row]) -> str:
    """A table of what directions achieve."""
    shown = [
        [f"{name} *" if row["default"] else name, *(row.get(c, "") for c in COLUMNS)]
        for name, row in rows.items()
        if "success" in row
    ]
    return markdown_table(["direction", *(c.replace("_", " ") for c in COLUMNS)], shown)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="fashion")
    parser.add_argument("-N", "--number", type=int, default=200, help="images edited for each direction")
    parser.add_argument("--samples", type=int, default=1024, help="samples that directions are found on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", default="runs/editing")
    parser.add_argument("--store", type=Path, help="write the directions into this folder")
    parser.add_argument("--page", type=Path, help="the page to write")
    return parser.parse_args()


if __name__ == "__main__":
    main()
