"""What do the isometric forms `borders` and `cells` have to work with, before anything is trained?

    python -m benchmarks.distillation.borders --data fashion.zip --page build/borders.md

Takes half an hour and writes the page. Nothing is trained here but a linear probe. `cells` reads an
image's class from its latent's coarse values: how much of the class can the probe read there today? `borders` shortens
the way of memberships along a path: does that way go with the class changes that `benchmarks.latents.transitions`
counts? How do the gradients of both at the images compare with those of `stress`?
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from scipy.stats import pearsonr, spearmanr
from torch import Tensor

from benchmarks.support.pages import markdown_table, publish
from gsd_cli.compute.device import resolve_device
from gsd_cli.compute.random import generator_for, latents, normal_rows
from gsd_cli.core.distillation.cells import Cells
from gsd_cli.core.distillation.clusters import Clusters
from gsd_cli.core.distillation.draws import Draws
from gsd_cli.core.distillation.fit_sources import FitSources, coarse
from gsd_cli.core.distillation.isometric_term import IsometricTerm
from gsd_cli.core.distillation.latent_pairs import row_order
from gsd_cli.core.distillation.manifold_gradient import along_manifold
from gsd_cli.core.editing.known_attributes import Knowledge
from gsd_cli.core.models.condition import UNCONDITIONAL
from gsd_cli.core.models.feature_maps import teacher_features
from gsd_cli.core.models.generator import Generator, load_model
from gsd_cli.core.models.teacher import load_teacher
from gsd_cli.data.dataset import ImageArchive
from gsd_cli.metrics.isometry import great_circles
from gsd_cli.options import DistillSettings

POINTS = 96
"""Images on a great circle, as in transitions.py."""
BATCH = 64
PROBES = {"class": "class, by the domain's classifier", "cluster": "likeliest cluster"}
GRADIENTS = ("stress", "borders", "cells")
PAGE = """# What `borders` and `cells` have to work with

    {command}

{machine}, seed {seed}. {clusters} clusters of {real} real images; temperature {temperature:.4g}. The mean largest
membership is {real_top:.3f} for real images, {made_top:.3f} for {images} generated images, and {target_top:.3f} for the
targets.

## Is the class in the latent's 8 x 8 means?

A logistic regression from the {dimensions} coarse values is fitted to three quarters of {images} latents and tested on
the last quarter. *Chance*: how often two images drawn at random agree. *Target*: how often the likeliest target of
`cells`, without any training, is the image's likeliest cluster.

{probes}

## Does the length of the way through memberships correlate with class changes?

{circles} great circles of {points} images each, the same as in `benchmarks.latents.transitions`. *Way*: half the sum of
|q(next) - q| around the circle, a count of the borders crossed.

{ways}

## What the gradients are at the images

{places} latents.

- *Norm*: the gradient of the sum of the losses, root mean square over these images.
- *Even*: the participation of images, (sum n^2)^2 / (N sum n^4) of their gradients' norms n; 1 if all norms are equal.
- *Still*: the share of images whose norm is below a hundredth of the mean.
- *Followed*: |J^T g|^2 / |g|^2, divided by the same for white noise instead of g: how much more of g than of noise the
  generator's latents can produce.
- *Cosine*: the cosine of g and J J^T g, which `--irl-gradient manifold` uses instead of g.

{gradients}
"""


class Bench:
    """One generator, its teacher's features, the domain's classifier, and the cells fitted to them."""

    def __init__(self, args: argparse.Namespace):
        self.args, self.device = args, resolve_device(args.device)
        model = load_model(args.model)
        self.generator: Generator = model.generator.to(self.device).eval().requires_grad_(False)
        self.classifier = Knowledge(model).classifier
        assert self.classifier is not None, "no classifier of the generator's domain"
        teacher = load_teacher(args.teacher).denoiser.to(self.device).eval().requires_grad_(False)
        self.phi = lambda images: teacher_features(teacher, images)
        self.data = ImageArchive(args.data) if args.data else None
        shape, conditions = self.generator.latent_shape, teacher.conditions
        sources = FitSources(self.phi, self.generator, shape, conditions, self.device, self.data)
        self.cells = Cells.fit(sources, args.seed, BATCH)

    @torch.no_grad()
    def seen(self, images: Tensor) -> Tensor:
        """Memberships, then class probabilities: [B, K + C]."""
        assert self.classifier is not None
        q = self.cells.log_memberships(self.phi(images)).exp()
        return torch.cat([q, self.classifier(images).softmax(1)], 1)

    @property
    def clusters(self) -> int:
        """How many clusters there are."""
        return len(self.cells.centres)


@torch.no_grad()
def probes(bench: Bench) -> dict[str, object]:
    """How well coarse latents tell classes and clusters, as a table, and the mean largest memberships."""
    from sklearn.linear_model import LogisticRegression

    args, k = bench.args, bench.clusters
    values, found, aims = [], [], []
    for rows in range(0, args.images, BATCH):
        z = latents(range(rows, rows + BATCH), bench.generator.latent_shape, "probe").to(bench.device)
        values.append(coarse(z).cpu())
        found.append(bench.seen(bench.generator(z)).cpu())
        aims.append(bench.cells.of_latents(z, UNCONDITIONAL, torch.empty(0)).cpu())
    x, y, t = torch.cat(values), torch.cat(found), torch.cat(aims)
    x = x / x.std()
    cut = 3 * len(x) // 4
    lines: list[list[object]] = []
    for name, labels in (("class", y[:, k:].argmax(1)), ("cluster", y[:, :k].argmax(1))):
        probe = LogisticRegression(max_iter=1000, C=0.01).fit(x[:cut], labels[:cut])
        share = torch.bincount(labels[cut:]).double() / len(labels[cut:])
        agree = (t.argmax(1) == labels).double().mean().item() if name == "cluster" else ""
        score = float(probe.score(x[cut:], labels[cut:]))
        lines.append([PROBES[name], score, share.max().item(), share.square().sum().item(), agree])
    real_top = math.nan
    if bench.data is not None:
        order = torch.randperm(len(bench.data), generator=generator_for(args.seed, "layout", "real"))[:4096]
        parts = [bench.seen(bench.data.batch(part).to(bench.device))[:, :k] for part in order.split(BATCH)]
        real_top = torch.cat(parts).amax(1).mean().item()
    return {
        "probes": markdown_table(("read from the latent", "probe", "majority", "chance", "target"), lines),
        "made_top": y[:, :k].amax(1).mean().item(),
        "real_top": real_top,
        "target_top": t.amax(1).mean().item(),
        "dimensions": x.shape[1],
    }


def ways(bench: Bench) -> str:
    """Ways of memberships and changes of class on the same circles, and how they go together."""
    angles = (2 * math.pi * torch.arange(POINTS) / POINTS).repeat(bench.args.circles, 1)
    found = great_circles(
        lambda z: bench.generator(z.to(bench.device)).float(), bench.seen, bench.generator.latent_shape, angles
    ).vectors
    q, classes = found[..., : bench.clusters], found[..., bench.clusters :].argmax(2)
    way = (q.roll(-1, 1) - q).abs().sum(2).sum(1) / 2
    changes = (classes.roll(-1, 1) != classes).double().sum(1)
    crossed = (q.argmax(2).roll(-1, 1) != q.argmax(2)).double().sum(1)
    lines: list[list[object]] = []
    for name, figure in (("class changes", changes), ("cluster changes", crossed), ("way of memberships", way)):
        linear, ranks = pearsonr(figure, changes), spearmanr(figure, changes)
        interval = linear.confidence_interval(0.95) if figure is not changes else None
        width = f"{interval.low:.2f} to {interval.high:.2f}" if interval else ""
        error = figure.std().item() / len(figure) ** 0.5
        lines.append([name, f"{figure.mean():.2f} ± {error:.2f}", linear.statistic, width, ranks.statistic])
    return markdown_table(("a circle's", "mean", "correlation with class changes", "95 %", "of ranks"), lines)


def gradients(bench: Bench) -> str:
    """The gradients of the forms at the same generator's images."""
    lines: list[list[object]] = []
    for form in GRADIENTS:
        settings = DistillSettings.model_validate(
            {"irl": form, "sidl_weight": 0.0, "seed": bench.args.seed, "micro_batch": BATCH, "pair_every": 2}
        )
        term = IsometricTerm(settings, bench.phi, 100)
        cells = bench.cells
        term.fitted = {"borders": Clusters(cells.centres, cells.temperature), "cells": cells}.get(form)
        drawn = normal_rows(range(2 * bench.args.places), bench.generator.latent_shape, bench.args.seed, "borders", "z")
        rows = row_order(len(drawn), 2, term.world, term.group)
        draws = Draws(bench.args.seed, len(drawn), rows, bench.generator.latent_shape, UNCONDITIONAL, bench.device)
        latent = term.make_pairs(drawn.to(bench.device), draws, 0)
        count = latent.pairs * term.group
        with torch.no_grad():
            images = torch.cat([bench.generator(part) for part in latent.z.split(BATCH)])
        measured = term.measure(images, latent)
        z, g = latent.z[:count], measured.gradient[:count]
        norms = g.flatten(1).norm(dim=1)
        even = norms.square().sum() ** 2 / (len(norms) * norms.pow(4).sum())
        still = (norms < norms.mean() / 100).double().mean()
        followed, cosine = follow(bench, z, g)
        noise = normal_rows(range(count), z.shape[1:], bench.args.seed, "borders", "noise").to(z)
        white, white_cosine = follow(bench, z, noise)
        size = latent.pairs * g.norm() / len(g) ** 0.5
        lines.append([form, measured.loss.item(), *(x.item() for x in (size, even, still)), followed / white, cosine])
    names = ("form", "loss", "norm", "even", "still", "followed", "cosine")
    return markdown_table(names, [*lines, ["white noise", "", "", "", "", 1.0, white_cosine]])


def follow(bench: Bench, z: Tensor, g: Tensor) -> tuple[float, float]:
    """|J^T g|^2 / |g|^2 and the cosine of g and J J^T g, over all latents together."""
    back = 0.0
    for part, towards in zip(z.split(BATCH), g.split(BATCH), strict=True):
        own = part.detach().requires_grad_(True)
        back += torch.autograd.grad(bench.generator(own), own, towards)[0].square().sum().item()
    along = along_manifold(bench.generator, z, g, chunk=BATCH)
    cosine = torch.nn.functional.cosine_similarity(g.flatten(), along.flatten(), 0)
    return back / g.square().sum().item(), cosine.item()


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="fashion", help="a run, a generator folder or a bundled generator")
    parser.add_argument("--teacher", default="ddpm-fashion")
    parser.add_argument("--data", type=Path, help="prepared real images, to cluster; without, generated ones")
    parser.add_argument("--images", type=int, default=16384, help="generated images for the probe")
    parser.add_argument("--circles", type=int, default=128)
    parser.add_argument("--places", type=int, default=256, help="latents at which gradients are taken")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--page", type=Path, help="write the page here")
    args = parser.parse_args()
    bench = Bench(args)
    publish(
        PAGE,
        args.page,
        seed=args.seed,
        clusters=bench.clusters,
        real=min(4096, len(bench.data)) if bench.data is not None else 0,
        temperature=bench.cells.temperature.item(),
        images=args.images,
        circles=args.circles,
        points=POINTS,
        places=args.places,
        ways=ways(bench),
        gradients=gradients(bench),
        **probes(bench),
    )


if __name__ == "__main__":
    main()
