"""Does the isometric term work? Distil with and without it, measure, tabulate, draw.

    python -m benchmarks.distillation.geometry --kimg 24 --seeds 0,1,2 --data fashion-test.zip \\
        --page docs/results/geometry.md

Takes half a minute per thousand images of each run, and some minutes to measure each: most of a day for the command
above. It resumes where it stopped: finished runs and measured rows are not repeated. Every variant is a `gsd distill`
of equal length in its own run folder under --out. --out also holds results.csv (a row for each variant and seed),
cost.csv (the seconds per image) and commands.txt (the commands given). A section of the page and its figures come from
these, and show all variants and seeds measured so far. Copies of the three lie with the page's figures: copied into
--out on another machine, they let the experiment resume there.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.distillation import geometry_alternatives as alternatives
from benchmarks.distillation.geometry_alternatives import ALTERNATIVES
from benchmarks.distillation.geometry_frontier import draw_frontier
from benchmarks.distillation.geometry_page import OFF, Row, Variant, measured, named, page, shown, variants
from benchmarks.support.pages import command_line, write_page
from gsd_cli.base.atomic import atomic_file
from gsd_cli.base.storage import cache_dir
from gsd_cli.catalogue.find import read_card
from gsd_cli.comparison.figures import circle_speeds, draw_angles, draw_speeds, draw_walks
from gsd_cli.compute.device import resolve_device
from gsd_cli.compute.random import latents
from gsd_cli.core.distillation.step import Distillation
from gsd_cli.core.editing.known_attributes import Knowledge
from gsd_cli.core.latents.walks import walk
from gsd_cli.core.models.feature_maps import FeatureMapSources, build_feature_map
from gsd_cli.core.models.generator import Generator, generate, load_model
from gsd_cli.core.models.teacher import Teacher, load_teacher
from gsd_cli.data.dataset import ImageArchive
from gsd_cli.metrics.evaluation import generator_features
from gsd_cli.metrics.features import Extractor, TeacherFeatures, classifier_features, features_folder
from gsd_cli.metrics.isometry import REPORT_PATHS, great_circles, isometry_report, path_angles
from gsd_cli.metrics.path_length import path_length
from gsd_cli.metrics.precision_recall import precision_recall
from gsd_cli.metrics.reference import data_statistics, reference_of_features
from gsd_cli.metrics.speed import time_interleaved
from gsd_cli.metrics.statistics import Statistics, frechet_distance, gaussian_statistics
from gsd_cli.options import DistillSettings

FORMS, RATIOS = "speed,stress,literal,jacobian", "0.3,1,3"
PPL_PAIRS, REPEATS, FRAMES = 400, 7, 12
KEPT = ("results.csv", "cost.csv", "commands.txt")
PROTOCOL = ("teacher", "kimg", "batch_size", "samples", "ppl_pairs", "paths", "repeats")


class Laboratory:
    """What all measurements share."""

    def __init__(self, args: argparse.Namespace):
        self.args, self.device = args, resolve_device(args.device)
        self.teacher: Teacher = load_teacher(args.teacher, offline=True)
        self.teacher.denoiser.to(self.device)
        self.teacher.autoencoder.to(self.device)
        self.extractor, self.reference = self._features()
        self.real: Tensor | None = None
        if args.data is not None:
            archive = ImageArchive(args.data)
            batches = itertools.islice(archive.batches(100), -(-args.samples // 100))
            found = [self.extractor.features(batch.to(self.device)).cpu() for batch in batches]
            self.real = torch.cat(found)[: args.samples]

    def _features(self) -> tuple[Extractor, Statistics]:
        """Those asked for, on --data; the teacher's domain's classifier and real images; else the teacher's own map, on
        --data."""
        if self.args.features is not None and self.args.data is not None:
            extractor = classifier_features(self.args.features, self.device)
            return extractor, data_statistics(self.args.data, extractor, self.device, self.args.batch_size)
        if self.teacher.features is not None:
            extractor = classifier_features(self.teacher.features, self.device)
            return extractor, reference_of_features(features_folder(self.teacher.features), extractor).statistics
        if self.args.data is None:
            raise SystemExit(f"{self.args.teacher} has no features of its domain: give --data")
        own = TeacherFeatures(self.teacher.denoiser, self.teacher.autoencoder)
        return own, data_statistics(self.args.data, own, self.device, self.args.batch_size)

    def folder(self, variant: Variant, seed: int) -> Path:
        """The run folder of a variant."""
        return Path(self.args.out) / "runs" / f"{variant.name.replace(' ', '-')}-seed{seed}"

    def distil(self, variant: Variant, seed: int) -> None:
        """Run or finish one distillation, as a user would."""
        options = ["--teacher", self.args.teacher, "--kimg", f"{self.args.kimg:g}", "--seed", str(seed)]
        options += ["--batch-size", str(self.args.batch_size), "--device", self.args.device]
        options += ["--eval-samples", "256", "--eval-every", f"{self.args.kimg:g}"]
        for name, value in self.args.set.items():
            options += ["--" + name.replace("_", "-"), value]
        folder = self.folder(variant, seed)
        if self.args.start is not None:
            options.append("--force")
            if not folder.exists():
                copy = folder.with_name(folder.name + ".copy")
                shutil.copytree(self.args.start, copy, dirs_exist_ok=True)
                copy.rename(folder)
        command = ["distill", *options, *variant.flags, "-o", str(folder)]
        print("gsd", shlex.join(command), file=sys.stderr, flush=True)
        gsd = [alternatives.__name__, variant.form] if variant.form in ALTERNATIVES else ["gsd_cli"]
        subprocess.run([sys.executable, "-m", *gsd, *command], check=True, stdout=subprocess.DEVNULL)

    def generator(self, variant: Variant, seed: int) -> Generator:
        """The distilled generator, ready to be measured."""
        if not self.folder(variant, seed).exists():  # measured on another machine
            self.distil(variant, seed)
        found = load_model(str(self.folder(variant, seed))).generator
        return found.to(self.device).eval().requires_grad_(False)

    def torch_of(self, variant: Variant, seed: int) -> str:
        """The version of torch that finished the run, not the one that measures it."""
        version: str = read_card(self.folder(variant, seed) / "generator")["versions"]["torch"]
        return version

    def images(self, generator: Generator) -> Callable[[Tensor], Tensor]:
        """Latents to float32 images."""
        return torch.no_grad()(lambda z: generator(z.to(self.device)).float())

    def measure(self, generator: Generator) -> Row:
        """All figures, on the same latents for every variant."""
        shape, batch, images = generator.latent_shape, self.args.batch_size, self.images(generator)
        features = torch.cat(list(generator_features(generator, self.extractor, range(self.args.samples), batch)))
        row: Row = {"fd": frechet_distance(gaussian_statistics([features], self.extractor.name), self.reference)}
        if self.real is not None:
            found = precision_recall(features.cpu(), self.real)
            row |= {"precision": found.precision, "recall": found.recall}
        for key, epsilon in (("ppl", 1e-4), ("ppl_coarse", 1e-3)):
            distance, pairs = self.extractor.squared_distance, self.args.ppl_pairs
            length = path_length(images, distance, shape, pairs, epsilon, batch_size=batch)
            row[key] = length.mean
            if key == "ppl":
                row |= {"ppl_low": length.low, "ppl_high": length.high, "ppl_untrimmed": length.untrimmed}
        return row | asdict(isometry_report(images, self.extractor.embed, shape, self.args.paths, batch_size=batch))

    def confidence(self, variant: Variant, seed: int) -> Row:
        """How sure the domain's classifier is of a sample, mean top probability, if there is a classifier.

        The latent space is connected and classes are not: something must lie between them.
        """
        model = load_model(str(self.folder(variant, seed)))
        classifier = Knowledge(model).classifier
        if classifier is None:
            return {}
        z = latents(range(self.args.samples), model.generator.latent_shape)
        samples = generate(model.generator.to(self.device).eval(), z, self.args.batch_size).clamp(-1, 1)
        with torch.no_grad():
            tops = [classifier(part).softmax(1).amax(1) for part in samples.split(self.args.batch_size)]
        return {"confidence": torch.cat(tops).mean().item()}

    def cost(self, steps: Sequence[str]) -> dict[str, float]:
        """Seconds an image of one whole training step at full strength, median, variants' steps interleaved."""
        tasks = {step: self._stepper(step) for step in steps}
        for task in tasks.values():
            task()  # warm-up
        times = time_interleaved(tasks, self.args.batch_size, self.device, self.args.repeats)
        return {step: timing.median / self._settings(step).irl_every for step, timing in times.items()}

    def _settings(self, step: str) -> DistillSettings:
        variant = named(step)
        method = {name: value for name, value in self.args.set.items() if name in DistillSettings.model_fields}
        form = "speed" if variant.form in ALTERNATIVES else variant.form
        return DistillSettings.model_validate(
            {"irl": form, "batch_size": self.args.batch_size, **method, **variant.method}
        )

    def _stepper(self, step: str) -> Callable[[], object]:
        settings = self._settings(step)
        teacher, std = self.teacher, [0.5] * self.teacher.image_shape[0]
        sources = FeatureMapSources(
            teacher.denoiser, teacher.autoencoder, std, cache_dir(), offline=True, device=self.device
        )
        phi = build_feature_map(settings.irl_phi, sources)
        kind = ALTERNATIVES.get(named(step).form, Distillation)
        task = kind(teacher.denoiser, settings, 1, self.device, lambda *_: {}, phi)
        steps = iter(range(1, 10**6))  # from 1 on: past the warm-up of a run of one step
        # whole turns of the term: the steps between them are cheaper
        return lambda: [task.step(next(steps)) for _ in range(settings.irl_every)]


def read(path: Path) -> list[Row]:
    """The rows of a CSV; numbers become numbers, empty cells are left out."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [{k: _value(v) for k, v in row.items() if v != ""} for row in csv.DictReader(file)]


def _value(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text


def write(path: Path, rows: list[Row]) -> None:
    """A CSV of all columns that occur."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with atomic_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def results(args: argparse.Namespace) -> tuple[Path, Row]:
    """The CSV of all rows, and what a row must have in common with this run's."""
    same = {"kimg": args.kimg, "samples": args.samples, "ppl_pairs": args.ppl_pairs, "paths": args.paths}
    return Path(args.out) / "results.csv", same


def experiment(lab: Laboratory, wanted: list[Variant], seeds: list[int]) -> list[Row]:
    """Distil and measure what is missing; returns the rows of all variants and seeds so far."""
    path, same = results(lab.args)
    rows = read(path)
    for seed in seeds:
        for variant in wanted:
            key = {"variant": variant.name, "seed": seed, **same}
            if not any(all(row.get(k) == v for k, v in key.items()) for row in rows):
                lab.distil(variant, seed)
                rows.append(key | lab.measure(lab.generator(variant, seed)) | {"torch": lab.torch_of(variant, seed)})
                write(path, rows)
    kept = [row for row in rows if all(row.get(k) == v for k, v in same.items())]
    for row in kept:
        if "confidence" not in row:
            row |= lab.confidence(named(row["variant"]), int(row["seed"]))
            write(path, rows)
    return kept


def costs(lab: Laboratory, wanted: list[Variant]) -> dict[str, float]:
    """Seconds an image by kind of step; measured once, all together."""
    path = Path(lab.args.out) / "cost.csv"
    steps = list(dict.fromkeys(v.step for v in wanted))
    known = {row["step"]: row["seconds"] for row in read(path)}
    if not set(steps) <= known.keys():
        known = lab.cost(steps)
        write(path, [{"step": step, "seconds": seconds} for step, seconds in known.items()])
    return {step: known[step] for step in steps}


def commands(args: argparse.Namespace, argv: list[str], figures: str) -> str:
    """This command, indented, and where all commands given so far are listed, this one among them."""
    path, command = Path(args.out) / "commands.txt", command_line(argv)
    known = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    lines = list(dict.fromkeys([*known, command]))
    with atomic_file(path) as temporary:
        temporary.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return f"    {command}\n\n[All commands]({figures}/{path.name}), one a line."


def facts(lab: Laboratory, argv: list[str], rows: list[Row]) -> dict[str, str]:
    """What the page says of the protocol."""
    figures = str(figure_folder(lab.args).relative_to(lab.args.page.parent)) if lab.args.page else lab.args.out
    versions = ", ".join(sorted({str(row["torch"]) for row in rows if "torch" in row}))
    gpu = torch.cuda.get_device_name(lab.device) if lab.device.type == "cuda" else "no GPU"
    return {
        "command": commands(lab.args, argv, figures),
        "machine": f"{platform.machine()}, {os.cpu_count()} CPU cores, {gpu}, torch {versions}",
        "figure": lab.extractor.figure,
        "features": lab.extractor.name,
        "figures": figures,
        "start": "" if lab.args.start is None else f"Every run resumes `{lab.args.start.name}`. ",
        **{name: str(getattr(lab.args, name)) for name in PROTOCOL},
        "kimg": f"{lab.args.kimg:g}",
    }


def figure_folder(args: argparse.Namespace) -> Path:
    """Where the figures of the page's section lie: one folder per length."""
    return Path(args.page.with_suffix("") / f"{args.kimg:g}")


def draw(lab: Laboratory, best: Variant, seed: int, folder: Path) -> None:
    """Speeds, angles and walks without the term and with it."""
    pair = {"without": lab.generator(OFF, seed), best.name: lab.generator(best, seed)}
    images = {name: lab.images(generator) for name, generator in pair.items()}
    shape, embed = pair[best.name].latent_shape, lab.extractor.embed
    draw_speeds({name: circle_speeds(g, embed, shape) for name, g in images.items()}, folder / "speeds.png")
    angles = path_angles(REPORT_PATHS, 0)
    draw_angles({name: great_circles(g, embed, shape, angles) for name, g in images.items()}, folder / "angles.png")

    z = latents(range(8), shape)
    ends = [(z[i], z[i + 4]) for i in range(4)]
    walks = {
        name: [walk(a, b, FRAMES, "slerp", partial(_without_label, g), embed).images for a, b in ends]
        for name, g in images.items()
    }
    draw_walks(walks, folder / "walks.png")


def _without_label(images: Callable[[Tensor], Tensor], z: Tensor, _: object) -> Tensor:
    return images(z)


def arguments(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="ddpm-fashion")
    parser.add_argument("--out", default="runs/geometry", help="run folders, CSV files and figures")
    parser.add_argument("--kimg", type=float, default=24.0, help="thousand images a run")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--forms", default=FORMS)
    parser.add_argument("--ratios", default=RATIOS, help="target ratios of the gradients' norms")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE",
        help="another setting for every gsd distill, such as irl_every=4; take another --out for it",
    )  # fmt: skip
    parser.add_argument(
        "--with", action="append", default=[], dest="own", metavar="NAME=VALUE",
        help="a setting of these variants, not of the run without the term: variants of their own, named by it",
    )  # fmt: skip
    parser.add_argument("--start", type=Path, help="a run that every run goes on from, up to --kimg in all")
    parser.add_argument("--data", type=Path, help="prepared real images, for recall")
    parser.add_argument(
        "--features", metavar="NAME", help="a classifier to measure in, against --data; default: the teacher's"
    )
    parser.add_argument("--samples", type=int, default=2000, help="images for FD and recall")
    parser.add_argument("--ppl-pairs", type=int, default=PPL_PAIRS)
    parser.add_argument("--paths", type=int, default=256, help="great circles of the isometry report")
    parser.add_argument("--repeats", type=int, default=REPEATS, help="timings of a training step")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--page", type=Path, help="write a section of this page, its figures next to it")
    args = parser.parse_args(argv)
    args.set, args.own = (dict(pair.split("=", 1) for pair in pairs) for pairs in (args.set, args.own))
    return args


def main(argv: list[str]) -> None:
    """Distil, measure, draw, write."""
    args = arguments(argv)
    wanted, seeds = variants(args.forms, args.ratios, args.own), [int(s) for s in args.seeds.split(",")]
    lab = Laboratory(args)
    rows = experiment(lab, wanted, seeds)
    wanted = measured(rows)
    cost = costs(lab, wanted)
    figures = Path(args.out) / "figures"
    best = shown(rows, wanted, cost)
    draw_frontier(rows, figures / "frontier.png")
    draw(lab, best, min(int(row["seed"]) for row in rows if row["variant"] == best.name), figures)
    text = page(rows, wanted, cost, facts(lab, argv, rows))
    if args.page is not None:
        write_page(args.page, text)
        folder = figure_folder(args)
        shutil.copytree(figures, folder, dirs_exist_ok=True)
        for name in KEPT:
            shutil.copy(Path(args.out) / name, folder / name)
    print(text)


if __name__ == "__main__":
    main(sys.argv[1:])
