"""Which features should the isometric term measure pictures in? Those that move as an independent measure does.

    python benchmarks/feature_maps.py [--model fashion] [--teacher ddpm-fashion] [--pairs 384] [--page PAGE.md]

For pairs of latents a small angle apart: the distance of the generator's pictures in the features of a classifier
that no distillation sees, and in candidate maps of the teacher's own encoder. A map whose distances follow the
classifier's (Pearson correlation of the logarithms) makes even what the figures will be measured by.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from pages import publish
from rows import markdown
from torch import Tensor

from gsd_cli.compute.random import latents
from gsd_cli.core.models.denoiser import per_image
from gsd_cli.core.models.feature_maps import normalise_channels, pixel_features
from gsd_cli.core.models.generator import load_model
from gsd_cli.core.models.sphere import rotate
from gsd_cli.core.models.teacher import load_teacher
from gsd_cli.metrics.features import classifier_features

SIGMAS = (0.05, 0.2, 0.5, 1.0, 2.0)
BATCH = 64

PAGE = """# Feature maps for the isometric term

    {command}

Distances between the pictures of latents a small angle apart ({pairs} pairs, generator `{model}`): the Pearson
correlation of their logarithms, in maps of the teacher's encoder and in the features of the classifier `{features}`,
which no distillation sees. {machine}.

{table}

The coefficient of variation of the speed itself, in the classifier's features, is {spreads} rad.
"""


def candidates(count: int) -> dict[str, list[int]]:
    """Maps of an encoder with `count` of them, the last being the mid block."""
    middle, last = count // 2 - 1, count - 1
    first = {"first down block": [0], "middle down block": [middle], "mid block": [last]}
    return first | {"middle and mid (`teacher`)": [middle, last], "all": list(range(count))}


def main() -> None:
    """Measure, tabulate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="fashion")
    parser.add_argument("--teacher", default="ddpm-fashion")
    parser.add_argument("--pairs", type=int, default=384)
    parser.add_argument("--angles", default="0.05,0.2", help="radians")
    parser.add_argument("--page", type=Path)
    options = parser.parse_args()
    teacher = load_teacher(options.teacher, offline=True)
    if teacher.features is None:
        raise SystemExit(f"{options.teacher} has no features of its domain")
    judge = classifier_features(teacher.features, torch.device("cpu"))
    generator = load_model(options.model).generator.eval().requires_grad_(False)
    z = latents(range(options.pairs), generator.latent_shape)
    w = latents(range(options.pairs), generator.latent_shape, "feature-maps")
    angles = [float(angle) for angle in options.angles.split(",")]

    @torch.no_grad()
    def apply(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return torch.cat([f(part) for part in x.split(BATCH)])

    here = apply(generator, z)
    moved = {tau: apply(generator, rotate(z, w, torch.full((len(z),), tau))) for tau in angles}

    def distances(f: Callable[[Tensor], Tensor]) -> dict[float, Tensor]:
        start = apply(f, here)
        return {tau: (apply(f, there) - start).norm(dim=1).double() for tau, there in moved.items()}

    truth = distances(judge.embed)

    def row(name: str, sigma: str, f: Callable[[Tensor], Tensor]) -> list[str]:
        found = distances(f)
        pairs = [torch.stack([found[tau].log(), truth[tau].log()]) for tau in angles]
        return [name, sigma, *(f"{torch.corrcoef(pair)[0, 1]:.3f}" for pair in pairs)]

    def maps(sigma: float, chosen: list[int]) -> Callable[[Tensor], Tensor]:
        def features(x: Tensor) -> Tensor:
            found = teacher.denoiser.encode(x, per_image(sigma, x))
            return normalise_channels([found[i] for i in chosen])

        return features

    std = torch.full((1, teacher.image_shape[0], 1, 1), 0.5)
    count = len(teacher.denoiser.encode(here[:1], per_image(0.2, here[:1])))
    lines = [row("pixels, 8 x 8", "", lambda x: pixel_features(x, std))]
    for sigma in SIGMAS:
        lines += [row(name, f"{sigma:g}", maps(sigma, chosen)) for name, chosen in candidates(count).items()]
    spreads = [f"{(truth[tau].std() / truth[tau].mean()).item():.2f} at {tau:g}" for tau in angles]
    publish(
        PAGE,
        options.page,
        table=markdown(["features", "sigma", *(f"at {tau:g} rad" for tau in angles)], lines),
        spreads=" and ".join(spreads),
        pairs=options.pairs,
        model=options.model,
        features=judge.name,
    )


if __name__ == "__main__":
    main()
