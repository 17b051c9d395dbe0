"""Does the fake score know the generator's images? Its mean error and its view of their brightness, by noise level.

    python benchmarks/calibration.py runs/RUN --data DATA.zip [-N 640] [--page PAGE.md]

A denoiser that minimises its loss has no mean error on the images that it learnt from. The fake score and the generator
are those of the run's last checkpoint; the teacher on real images stands next to them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from pages import publish
from rows import markdown
from run_state import restore
from torch import Tensor

from gsd_cli.compute.device import autocast, resolve_device
from gsd_cli.compute.random import normal_rows
from gsd_cli.data.dataset import ImageArchive

LEVELS = (0.1, 0.3, 1.0, 2.0, 4.0, 8.0, 16.0, 24.0)
BATCH = 64
PAGE = """# What the fake score knows

    {command}

The last checkpoint of `{run}` ({seen:,} images seen), {count} images each. {machine}.

{images}

{table}

- Error: the mean of image minus estimate over pixels and images, on a scale where black is -1 and white is 1.
- Slope: that of an image's brightness over the brightness that the denoiser estimates. 1 is calibrated; below 1, the
  estimate varies more than it should.
- Difference: the teacher's estimate minus the fake score's on the same noisy images. The distillation loss uses it.
"""
Estimate = Callable[[Tensor, Tensor], Tensor]


def brightness(images: Tensor) -> Tensor:
    """The mean of each image [B, C, H, W]: [B]."""
    return images.mean((1, 2, 3))


def slope(truth: Tensor, estimate: Tensor) -> float:
    """Of the least-squares line through the brightness of images over that of their estimates."""
    x, y = brightness(estimate), brightness(truth)
    return (((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum()).item()


def main() -> None:
    """Measure and tabulate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="real images, prepared")
    parser.add_argument("-N", dest="count", type=int, default=640, help="images, a multiple of 64")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--page", type=Path)
    args = parser.parse_args()

    device = resolve_device(args.device)
    data = ImageArchive(args.data)
    task, steps = restore(args.run, device, data)
    task.generator.eval()
    task.fake_score.network.eval()

    def noise(*stream: int | str) -> Tensor:
        return normal_rows(range(args.count), task.teacher.shape, args.seed, "calibration", *stream).to(device)

    def teach(x: Tensor, sigma: Tensor) -> Tensor:
        return task.teacher(x, sigma).float()

    def fake(x: Tensor, sigma: Tensor) -> Tensor:
        g = task.fake_score.network(x, sigma).float()
        return task.fake_score.preconditioning.estimate(teach(x, sigma), g, sigma)

    def estimates(denoise: Estimate, images: Tensor, level: float, seed: int) -> Tensor:
        sigma = torch.full((BATCH,), level, device=device)
        noisy = images + level * noise("noise", seed)
        return torch.cat([denoise(x, sigma) for x in noisy.split(BATCH)])

    with torch.no_grad(), autocast(device, task.settings.precision):
        z = noise("z")
        made = torch.cat([task.generator(part, None).float() for part in z.split(BATCH)])
        averaged = torch.cat([task.average(part, None).float() for part in z.split(BATCH)])
        real = data.batch(torch.linspace(0, len(data) - 1, args.count).long()).to(device)
        images = [
            [name, f"{brightness(x).mean():.3f}", f"{brightness(x).std():.3f}", f"{x.std():.3f}"]
            for name, x in (("generator", made), ("its average", averaged), ("real", real))
        ]
        lines: list[list[object]] = []
        for k, level in enumerate(LEVELS):
            of_fake, of_teacher = (estimates(d, made, level, k) for d in (fake, teach))
            on_real = estimates(teach, real, level, k)
            known = [(made - of_fake).mean(), (real - on_real).mean(), (of_teacher - of_fake).mean()]
            slopes = slope(made, of_fake), slope(real, on_real)
            lines.append([level, f"{known[0]:+.3f}", f"{slopes[0]:.2f}", f"{known[1]:+.3f}", f"{slopes[1]:.2f}",
                          f"{known[2]:+.3f}"])  # fmt: skip
    publish(
        PAGE,
        args.page,
        run=args.run,
        seen=steps * task.batch_size,
        count=args.count,
        images=markdown(("images", "brightness", "its deviation", "deviation of pixels"), images),
        table=markdown(
            ("sigma", "fake score: error", "slope", "teacher on real images: error", "slope", "difference"), lines
        ),
    )


if __name__ == "__main__":
    main()
