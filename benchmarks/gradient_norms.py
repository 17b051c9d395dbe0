"""How strong is the isometric term where it counts? Both gradients at the images and at the weights, along a run.

    python benchmarks/gradient_norms.py runs/geometry/runs/speed-3-seed0 [--steps 16] [--page PAGE.md]

The term is weighed at the generator's images. From there both gradients are sent through the generator one by one,
for several batches at the last checkpoint of a run, whose weights stay as they are.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import median

import torch
from pages import publish
from rows import markdown
from run_state import restore
from torch import Tensor

from gsd_cli.compute.device import resolve_device

PAGE = """# The isometric term at the images and at the weights

    {command}

{steps} batches at the last checkpoint of `{run}` ({seen:,} images seen), its weights left as they are. {machine}.

{table}

Ratio: norm of the isometric gradient over the distillation's, median over batches. Signal: the share of a gradient's
squared norm that batches have in common (0: noise alone). Paired images: the distillation's share of its gradient, in
squared norm, at the {paired} of {batch} images that the term looks at. The fake score's momentary error is part of what
the distillation's batches have in common.

| | |
| --- | ---: |
| cosine between the two at the weights, median | {cosine:.2f} |
| the distillation's gradient at the paired images | {share:.2f} |
"""


def signal(gradients: Tensor) -> float:
    """Gradients [N, P] of independent batches: |E g|^2 / E|g|^2, without bias; it may fall below 0."""
    n, total = len(gradients), gradients.square().sum(1).mean()
    common = (gradients.mean(0).square().sum() - total / n) * n / (n - 1)
    return (common / total).item()


def main() -> None:
    """Measure and tabulate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--steps", type=int, default=16, help="batches")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--page", type=Path)
    options = parser.parse_args()
    task, _ = restore(options.run, resolve_device(options.device))
    settings, total = task.settings, task.total

    weights = [p for p in task.generator.parameters() if p.requires_grad]
    at_images, at_weights, shares = [], ([], []), []
    for step in range(total, total + options.steps):  # batches that the run has not seen
        batch = task._generate(step)
        latents, images = batch.latents, batch.images
        sidl = task.score_identity.measure(images.detach()[: len(latents.z)], batch.labels, step).gradient
        term = task.isometric.measure(images.detach(), latents)
        irl = task.isometric.restrict(term, latents, batch.labels, task.generator).gradient
        irl *= settings.irl_ratio * sidl.norm() / irl.norm()
        at_images.append((irl.norm() / sidl.norm()).item())
        shares.append((sidl[: 2 * latents.pairs].square().sum() / sidl.square().sum()).item())
        for kept, gradient in zip(at_weights, (sidl, irl), strict=True):
            found = torch.autograd.grad(images, weights, gradient, retain_graph=True)
            kept.append(torch.cat([g.flatten().cpu() for g in found]))
    both = [torch.stack(kept) for kept in at_weights]
    norms = [g.norm(dim=1) for g in both]
    table = [
        ["at the images", median(at_images), "", ""],
        ["at the weights", (norms[1] / norms[0]).median().item(), signal(both[0]), signal(both[1])],
    ]
    publish(
        PAGE,
        options.page,
        table=markdown(["", "ratio", "signal, distillation", "signal, isometric"], table),
        run=options.run.name,
        steps=options.steps,
        seen=total * settings.batch_size,
        paired=2 * latents.pairs,
        batch=settings.batch_size,
        cosine=torch.cosine_similarity(both[0], both[1]).median().item(),
        share=median(shares),
    )


if __name__ == "__main__":
    main()
