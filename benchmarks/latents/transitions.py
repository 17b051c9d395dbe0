"""Where is a latent space not isometric: within classes, or on the way from one to another?

    python -m benchmarks.latents.transitions --runs runs/off runs/stress --data fashion-test.zip \\
        --page build/transitions.md

Takes some minutes per run and writes the page. Nothing is trained here. The domain's classifier sorts pairs of latents
a small angle apart: a pair is `within` a class when both images are of one class with a probability of at least --sure,
else `between`. The length of the borders between classes: how often the likeliest class changes on the way round a
great circle, compared with the least that is possible.
"""

from __future__ import annotations

import argparse
import itertools
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.stats import norm
from torch import Tensor

from benchmarks.support.pages import markdown_table, publish
from gsd_cli.compute.device import resolve_device
from gsd_cli.core.editing.known_attributes import Knowledge
from gsd_cli.core.models.generator import load_model
from gsd_cli.data.dataset import ImageArchive
from gsd_cli.metrics.features import classifier_features
from gsd_cli.metrics.isometry import STEP, great_circles

NAMES = (
    "", "unsure images", "pairs between", "share of squared speed", "speed between / within",
    "CV of speed", "CV within", "class changes",
)  # fmt: skip
POINTS = 96
"""Images on a great circle."""
PAGE = """# Where the latent space is not isometric

Images change {speeds} times as fast between classes as within a class, and the pairs of latents between classes make up
{shares} of the squared speed that PPL averages.

    {command}

{machine}. {pairs} pairs of latents {step} rad apart, the same for every generator. Distances are measured in the
vectors of the domain's classifier.

- A pair is *within* a class if the classifier assigns both images to one class with a probability of at least {sure},
  else *between*. An image below that probability is *unsure*.
- *Share of squared speed*: PPL is a mean of squared speeds; this is the part of it that comes from pairs between
  classes.
- *CV*: the coefficient of variation of the speed, of all pairs and of the pairs within a class.
- *Class changes*: how often the likeliest class changes on a whole great circle, mean of {circles} circles of {points}
  images each, ± one standard error.

{table}

The real images are {real} of the test set, which is never trained on. With {classes} classes of equal shares of the
latents, no layout has fewer than {fewest:.2f} changes. Cells of equal weight have the shortest borders if each cell
holds the latents nearest to its corner of a simplex (Milman and Neeman, The Gaussian double-bubble and multi-bubble
conjectures, 2022).
"""


@dataclass(frozen=True)
class Transitions:
    """What pairs between classes have to do with how uneven the speed is; the shares are of 1."""

    unsure: float
    between: float
    squared_share: float
    speed_ratio: float
    cv: float
    cv_within: float


def fewest_changes(classes: int) -> float:
    """How often the class changes on a great circle, on average, when borders are as short as they can be.

    On a circle the scores of a simplex's corners are sinusoids with Gaussian amplitudes, one a class; the likeliest
    classes on the way round are the vertices of the convex hull of as many Gaussian points in a plane. Their mean
    number (Renyi and Sulanke, 1963) is n (n - 1) E[Phi(p)^(n - 2)], p ~ N(0, 1/2).
    """
    nodes, weights = np.polynomial.hermite.hermgauss(128)
    return float(classes * (classes - 1) * (weights @ norm.cdf(nodes) ** (classes - 2)) / math.sqrt(math.pi))


def class_changes(classes: Tensor) -> tuple[float, float]:
    """Mean number of changes on closed circles of images' classes [P, S], and its standard error."""
    changes = (classes != classes.roll(1, 1)).double().sum(1)
    return changes.mean().item(), (changes.std() / len(changes) ** 0.5).item()


def transitions(speed: Tensor, probabilities: Tensor, sure: float) -> Transitions:
    """speed: [P]; probabilities: of the classes at both ends, [P, 2, C]."""
    tops, classes = probabilities.max(2)
    within = (tops >= sure).all(1) & (classes[:, 0] == classes[:, 1])
    squared = speed.square()
    return Transitions(
        unsure=(tops < sure).double().mean().item(),
        between=(~within).double().mean().item(),
        squared_share=(squared[~within].sum() / squared.sum()).item(),
        speed_ratio=(speed[~within].mean() / speed[within].mean()).item(),
        cv=(speed.std() / speed.mean()).item(),
        cv_within=(speed[within].std() / speed[within].mean()).item(),
    )


def measured(run: str, args: argparse.Namespace) -> tuple[Transitions, tuple[float, float], int]:
    """One generator's figures, its class changes, and how many classes there are."""
    model = load_model(run)
    device = resolve_device(args.device)
    generator = model.generator.to(device).eval().requires_grad_(False)
    classifier = Knowledge(model).classifier
    if classifier is None or model.features is None:
        raise SystemExit(f"{run}: no classifier of its domain")
    extractor = classifier_features(model.features, device)

    def embed(images: Tensor) -> Tensor:
        return torch.cat([extractor.embed(images), classifier(images).softmax(1)], 1)

    def along(angles: Tensor) -> Tensor:
        return great_circles(lambda z: generator(z.to(device)).float(), embed, generator.latent_shape, angles).vectors

    found = along(torch.tensor([0.0, STEP]).repeat(args.pairs, 1))
    split = classifier.head.out_features
    speed = (found[:, 1, :-split] - found[:, 0, :-split]).norm(dim=1) / STEP
    whole = along((2 * math.pi * torch.arange(POINTS) / POINTS).repeat(args.circles, 1))[..., -split:].argmax(2)
    return transitions(speed, found[:, :, -split:], args.sure), class_changes(whole), split


@torch.no_grad()
def unsure(run: str, args: argparse.Namespace) -> float:
    """The share of real images that the classifier is unsure of."""
    classifier = Knowledge(load_model(run)).classifier
    assert classifier is not None
    batches = itertools.islice(ImageArchive(args.data).batches(100), -(-args.pairs // 100))
    tops = torch.cat([classifier(batch).softmax(1).amax(1) for batch in batches])[: args.pairs]
    return (tops < args.sure).double().mean().item()


def span(*values: float) -> str:
    """The least and the largest value, in words."""
    return f"{min(values):.3g} to {max(values):.3g}"


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", nargs="+", required=True, help="runs or generator folders; a row each")
    parser.add_argument("--data", type=Path, required=True, help="prepared real images")
    parser.add_argument("--pairs", type=int, default=2000)
    parser.add_argument("--circles", type=int, default=64, help="great circles for the class changes")
    parser.add_argument("--sure", type=float, default=0.9)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--page", type=Path, help="write the page here")
    args = parser.parse_args()
    lines: list[list[object]] = [["real images", unsure(args.runs[0], args), *[""] * 6]]
    for run in args.runs:
        found, (changes, error), classes = measured(run, args)
        lines.append([
            Path(run).name, found.unsure, found.between, found.squared_share, found.speed_ratio, found.cv,
            found.cv_within, f"{changes:.1f} ± {error:.1f}",
        ])  # fmt: skip
    publish(
        PAGE,
        args.page,
        pairs=args.pairs,
        step=STEP,
        sure=args.sure,
        real=args.pairs,
        circles=args.circles,
        points=POINTS,
        classes=classes,
        fewest=fewest_changes(classes),
        table=markdown_table(NAMES, lines),
        shares=span(*(float(str(line[3])) for line in lines[1:])),
        speeds=span(*(float(str(line[4])) for line in lines[1:])),
    )


if __name__ == "__main__":
    main()
