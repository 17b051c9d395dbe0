"""Does `gsd edit` change one thing on images that the model has never seen?

    python -m benchmarks.editing.images --data fashion-test.zip -N 200 --page docs/results/editing.md

Takes about an hour on two CPU cores. Writes a section of the page, its rows as JSON and CSV, and the latents under
--out. It resumes where it stopped: rows that are in --out are not measured again.
"""

from __future__ import annotations

import argparse
import os
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.support.pages import markdown_table, publish
from benchmarks.support.results import Results, Row
from gsd_cli.base.console import Console
from gsd_cli.base.session import Session
from gsd_cli.catalogue.run_layout import bundled_features_folder
from gsd_cli.compute.random import generator_for
from gsd_cli.core.editing.edit_image import edit_until_reached
from gsd_cli.core.editing.known_attributes import TRAITS
from gsd_cli.core.editing.measured_edit import Goal, solve_edits
from gsd_cli.core.editing.response import Response, respond
from gsd_cli.core.editing.store import DirectionStore
from gsd_cli.core.editing.supervised import Attribute
from gsd_cli.core.latents.files import Anchor
from gsd_cli.core.latents.inversion import encoder_features, invert
from gsd_cli.core.latents.walks import step_lengths, unevenness
from gsd_cli.core.models.classifier import load_features
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.models.fingerprint import weights_fingerprint
from gsd_cli.core.models.generator import generate, load_model
from gsd_cli.core.models.teacher import load_teacher
from gsd_cli.data.dataset import ImageArchive
from gsd_cli.options import EditOptions

STRENGTHS = (-2.0, -1.0, 0.0, 1.0, 2.0)
TOLERANCE = 0.25
STRIP, STRIP_END = 9, 2.0
"""Frames of a strip towards a class, and its last strength."""
COLUMNS = (
    "reached", "spearman", "leakage", "class_kept", "class_kept_second", "feature_distance",
)  # fmt: skip
NAMES = ("edit", "reached", "Spearman", "leakage", "class kept", "by a second classifier", "feature distance")
BATCH = 16
"""Images that are timed together."""
PAGE = """## Edits of unseen images

`gsd edit` reaches the strength that was asked for in {reached:.0%} of the edits, and keeps the class in {kept:.0%}
({second:.0%} for a classifier that the edits never see).

    {command}

{about}
* machine: {machine}

### Attributes measured in pixels

{edits}

{number} held-out test images, inverted, are edited at strengths -2, -1, 1 and 2, with `--method image` (solved for each
image) and `--method direction` (the same length for all images).

- *Reached*: the share of edits whose change is within {tolerance} standard deviations of the strength.
- *Spearman*: correlation of strength and attribute, mean over images.
- *Leakage*: the mean change of the other attributes over that of the target, both in standard deviations.
- *Class kept*: the share of edits that keep the class which the classifier sees in the unedited image. The second
  classifier (`FD-fashion-2`) has no part in the edits.
- *Feature distance*: squared, from the unedited image, mean over strengths.

An edit takes {edit_seconds:.2g} s per image in a batch of {batch}, after {invert_seconds:.2g} s for the inversion
({threads}).

### Strips towards a class

{strips}

Strips of {frames} frames from strength 0 to {end:g}, of the first images that are not of the class. *Largest step*:
largest over mean step between frames, in the generator's own features, median and worst over images. *Reached*: the
share of strips whose last frame is within {tolerance} of the strength. *Class*: the share whose last frame the
classifier, or the second one, assigns to the class.
"""


class Laboratory:
    """What all rows share."""

    def __init__(self, args: argparse.Namespace):
        self.args = args
        self.model = load_model(args.model)
        self.generator = self.model.generator.eval().requires_grad_(False)
        options = EditOptions.model_validate({"list": True, "model": args.model})
        self.store = DirectionStore(self.model, options, Session.start(options, Console(quiet=True)))
        self.features = encoder_features(self.generator)
        second = bundled_features_folder(f"{self.model.features}-2")
        self.second = load_features(second)
        self.deviations = self.store.deviations([t.name for t in TRAITS])
        self.z = self._find_latents()
        classifier = self.store.knowledge.classifier
        assert classifier is not None
        self.measures: dict[str, Any] = {t.name: t.score for t in TRAITS}
        self.measures |= {"features": self.features, "class": classifier, "second": self.second}
        images = generate(self.generator, self.z, 64)
        self.base = self._measure(images)

    def _find_latents(self) -> Tensor:
        """The latents of held-out images; inverted once."""
        path = Path(self.args.out) / "latents.safetensors"
        if not path.exists():
            archive = ImageArchive(self.args.data)
            order = torch.randperm(len(archive), generator=generator_for(self.args.seed, "edit-benchmark"))
            teacher = self._teacher()
            parts = archive.batch(order[: self.args.number]).split(16)
            found = [invert(self.generator, part, self.features, teacher=teacher).z for part in parts]
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file({"z": torch.cat(found)}, path)
        return load_file(path)["z"]

    @torch.no_grad()
    def _measure(self, images: Tensor) -> dict[str, Tensor]:
        parts = images.split(64)
        return {name: torch.cat([measure(part) for part in parts]) for name, measure in self.measures.items()}

    def _goal(self, target: Attribute) -> Goal:
        kept = [t for t in TRAITS if t.name != target.name]
        return Goal(target, kept, self.deviations, self.features, self.measures["class"])

    def _teacher(self) -> Denoiser | None:
        return load_teacher(self.model.teacher, offline=True).denoiser if self.model.teacher else None

    def solved(self, target: Attribute) -> Row:
        """Edits as `gsd edit --attribute` makes them."""
        goal = self._goal(target)
        moved = [s for s in STRENGTHS if s]
        asked = [s for s in moved for _ in range(len(self.z))]
        found = solve_edits(self.generator, self.z.repeat(len(moved), 1, 1, 1), asked, goal)
        seen = self._measure(generate(self.generator, found, 64))
        values = {name: value.unflatten(0, (len(moved), -1)) for name, value in seen.items()}
        still = STRENGTHS.index(0.0)
        values = {
            name: torch.cat([value[:still], self.base[name][None], value[still:]]) for name, value in values.items()
        }
        return self._figures(Response(STRENGTHS, self.base, values, self.deviations), target)

    def moved(self, target: Attribute) -> Row:
        """Edits along the fixed direction."""
        direction = self.store.find(target.name, "auto")
        seen = respond(self.generator, direction, self.z, STRENGTHS, self.measures, self.deviations, 64, self.base)
        return self._figures(seen, target)

    def timed(self) -> Row:
        """Seconds per image of an inversion and of an edit, BATCH images together."""
        z = self.z[:BATCH]
        images, teacher = generate(self.generator, z, BATCH).clamp(-1, 1), self._teacher()
        goal = self._goal(TRAITS[0])
        begun = time.perf_counter()
        invert(self.generator, images, self.features, teacher=teacher)
        inverted = time.perf_counter()
        solve_edits(self.generator, z, [1.0] * len(z), goal)
        return {
            "n": len(z),
            "invert": (inverted - begun) / len(z),
            "edit": (time.perf_counter() - inverted) / len(z),
        }

    def _figures(self, seen: Response, target: Attribute) -> Row:
        moved = [k for k, s in enumerate(STRENGTHS) if s]
        wanted = torch.tensor([s for s in STRENGTHS if s])[:, None]
        near = ((seen.change(target.name)[moved] - wanted).abs() <= TOLERANCE).double()
        row: Row = {"n": len(self.z), "reached": near.mean().item()}
        row |= {f"reached {s:+g}": near[k].mean().item() for k, s in enumerate(s for s in STRENGTHS if s)}
        row["spearman"] = seen.monotonicity(target.name)
        row["leakage"] = seen.leakage(target.name, [t.name for t in TRAITS])
        row["leakage_each"] = seen.leakage(target.name, [t.name for t in TRAITS], each=True)
        for name, column in (("class", "class_kept"), ("second", "class_kept_second")):
            same = seen.values[name].argmax(2) == seen.base[name].argmax(1)
            row[column] = same[moved].double().mean().item()
        row["feature_distance"] = seen.distance("features")[moved].square().mean().item()
        return row

    def strips(self, target: Attribute) -> Row:
        """Strips towards a class, from images of other classes."""
        k = self.store.knowledge.classes.index(target.name)
        direction, deviation = self.store.find(target.name, "auto"), self.store.deviations([target.name])[target.name]
        strengths = [STRIP_END * i / (STRIP - 1) for i in range(STRIP)]
        others = (self.base["class"].argmax(1) != k).nonzero()[: self.args.strips, 0].tolist()
        uneven, reached, first, second = [], [], [], []
        for i in others:
            anchor = Anchor(self.z[i], {})
            images = edit_until_reached(
                self.generator, anchor, direction, target, deviation, strengths, self.features, 64
            ).images
            with torch.no_grad():
                uneven.append(unevenness(step_lengths(images, self.features)))
                change = (target.score(images[-1:]) - target.score(images[:1])).item() / deviation
                reached.append(abs(change - STRIP_END) <= TOLERANCE)
                first.append(int(self.measures["class"](images[-1:]).argmax()) == k)
                second.append(int(self.second(images[-1:]).argmax()) == k)
        share = {"reached": reached, "class": first, "second": second}
        return {
            "n": len(others),
            "median": sorted(uneven)[len(uneven) // 2],
            "worst": max(uneven),
            **{name: sum(values) / len(values) for name, values in share.items()},
        }


def main() -> None:
    """Measure what is missing, write the page."""
    args = arguments()
    torch.set_num_threads(args.threads)
    lab = Laboratory(args)
    protocol = {"model": weights_fingerprint(lab.model.folder), "N": args.number, "seed": args.seed}
    protocol |= {"strips": args.strips, "threads": args.threads}
    rows = Results(Path(args.out) / "edits.json", protocol)
    strips = Results(Path(args.out) / "strips.json", protocol)
    for target in TRAITS:
        rows.measure_once(f"{target.name}, image", partial(lab.solved, target))
        rows.measure_once(f"{target.name}, direction", partial(lab.moved, target))
    for name in lab.store.knowledge.classes:
        strips.measure_once(name, partial(lab.strips, lab.store.built_in[name]))
    time_ = Results(Path(args.out) / "time.json", protocol).measure_once("time", lab.timed)
    solved = [row for name, row in rows.rows.items() if name.endswith(", image")]
    publish(
        PAGE,
        args.page,
        reached=sum(row["reached"] for row in solved) / len(solved),
        kept=sum(row["class_kept"] for row in solved) / len(solved),
        second=sum(row["class_kept_second"] for row in solved) / len(solved),
        about="\n".join(f"* {name}: {value}" for name, value in protocol.items()),
        edits=markdown_table(NAMES, [[name, *(row[c] for c in COLUMNS)] for name, row in rows.rows.items()]),
        strips=markdown_table(
            ("class", "strips", "largest step", "worst", "reached", "class", "second classifier"),
            [
                [name, row["n"], row["median"], row["worst"], row["reached"], row["class"], row["second"]]
                for name, row in strips.rows.items()
            ],
        ),
        number=args.number,
        tolerance=TOLERANCE,
        batch=time_["n"],
        edit_seconds=time_["edit"],
        invert_seconds=time_["invert"],
        threads="1 thread" if args.threads == 1 else f"{args.threads} threads",
        frames=STRIP,
        end=STRIP_END,
    )


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="prepared images that the model has not seen")
    parser.add_argument("--model", default="fashion")
    parser.add_argument("-N", "--number", type=int, default=200, help="images edited")
    parser.add_argument("--strips", type=int, default=10, help="images per class that are edited towards it")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", default="runs/edits")
    parser.add_argument("--page", type=Path, help="the page to write")
    return parser.parse_args()


if __name__ == "__main__":
    main()
