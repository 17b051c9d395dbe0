"""Does the warning about images that are not of the model's kind find them, and how often is it wrong?

    python -m benchmarks.latents.domain --data fashion-test.zip -N 1000 --page docs/results/editing.md

Takes a minute. Photographs come from scikit-learn and Matplotlib, letters from Pillow's font.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from sklearn.datasets import load_digits, load_sample_images
from torch import Tensor

from benchmarks.support.pages import markdown_table, publish
from gsd_cli.core.latents.domain import MARGIN, QUANTILE, SAMPLES, domain_distances, sample_features
from gsd_cli.core.latents.inversion import encoder_features
from gsd_cli.core.models.generator import load_model
from gsd_cli.data.dataset import ImageArchive

SIZE = 32
COLUMNS = ("images", "N", "least", "median", "largest", "warned of")
PAGE = """## Images that are not of the model's kind

gsd warns of {warned:.1%} of the held-out images of the model's own kind.

    {command}

* model: {model}
* machine: {machine}
* seed: {seed}

{table}

The figures are distances to the nearest of {samples} of the generator's own images, in the features of its encoder.
Their unit is {margin} times the {quantile:.0%} quantile of the distances of these images to their own nearest. gsd
warns above 1 (`gsd_cli/core/latents/domain.py`). The constants were chosen on 200 of the held-out images.
"""


def grey(pixels: object) -> Tensor:
    """Pixels of 0 to 255 as an image [1, SIZE, SIZE] in [-1, 1]."""
    return torch.from_numpy(np.asarray(pixels, dtype=np.float32))[None] / 127.5 - 1


def square(radius: int) -> Tensor:
    """A light square on black."""
    canvas = Image.new("L", (SIZE, SIZE))
    ImageDraw.Draw(canvas).rectangle((16 - radius, 16 - radius, 16 + radius, 16 + radius), 200)
    return grey(canvas)


def letter(character: str) -> Tensor:
    """A white letter on black."""
    canvas = Image.new("L", (SIZE, SIZE))
    ImageDraw.Draw(canvas).text((16, 16), character, 255, ImageFont.load_default(22), anchor="mm")
    return grey(canvas)


def photos(rng: np.random.Generator, crops: int) -> list[Tensor]:
    """Random square crops of four photographs."""
    sample_data = Path(matplotlib.get_data_path()) / "sample_data"
    files = [sample_data / name for name in ("grace_hopper.jpg", "Minduka_Present_Blue_Pack.png")]
    whole = [Image.fromarray(p) for p in load_sample_images().images] + [Image.open(path) for path in files]
    found = []
    for photo in (one.convert("L") for one in whole):
        for _ in range(crops):
            side = int(rng.integers(min(photo.size) // 2, min(photo.size)))
            left, top = (int(rng.integers(0, length - side + 1)) for length in photo.size)
            found.append(grey(photo.crop((left, top, left + side, top + side)).resize((SIZE, SIZE))))
    return found


def quartered(image: Tensor, rng: np.random.Generator) -> Tensor:
    """The four quarters of an image in another order."""
    half = SIZE // 2
    parts = image.unfold(1, half, half).unfold(2, half, half).reshape(4, half, half)[rng.permutation(4)]
    return torch.cat([torch.cat([parts[0], parts[1]], 1), torch.cat([parts[2], parts[3]], 1)])[None]


def others(held_out: Tensor, rng: np.random.Generator) -> dict[str, list[Tensor]]:
    """Images that are not of the model's kind, by what they are; some are changed images of its kind."""
    y, x = np.mgrid[:SIZE, :SIZE]
    few = held_out[:12]
    digits = [Image.fromarray((d * 15.9).astype(np.uint8)).resize((28, 28)) for d in load_digits().images[:12]]
    ramps = (x, y, x + y, SIZE - x, SIZE - y, np.hypot(x - 16, y - 16), 23 - np.hypot(x - 16, y - 16))
    return {
        "noise": [grey(rng.integers(0, 256, (SIZE, SIZE))) for _ in range(12)],
        "checkerboards": [grey((y // p + x // p) % 2 * 255) for p in (1, 2, 3, 4, 5, 6, 8, 10, 16)],
        "negatives of garments": list(-few),
        "one shade of grey": [grey(np.full((SIZE, SIZE), v)) for v in (10, 40, 80, 120, 160, 200, 255)],
        "gradients": [grey(255 * ramp / ramp.max()) for ramp in ramps],
        "photographs": photos(rng, 6),
        "garments with their quarters exchanged": [quartered(image, rng) for image in few],
        "garments upside down": list(few.flip(2)),
        "digits": [grey(digit.crop((-2, -2, 30, 30))) for digit in digits],
        "squares": [square(radius) for radius in range(5, 15)],
        "letters": [letter(character) for character in "AbgKQRS@&%?8"],
    }


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("-N", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--model", default="fashion")
    parser.add_argument("--page", type=Path)
    args = parser.parse_args()
    model = load_model(args.model)
    generator = model.generator.eval().requires_grad_(False)
    features, rng = encoder_features(generator), np.random.default_rng(args.seed)
    own, archive = sample_features(generator, features, 64), ImageArchive(args.data)
    held_out = archive.batch(torch.from_numpy(rng.choice(len(archive), args.N, replace=False)))
    kinds = {"garments, held out": held_out} | {k: torch.stack(v) for k, v in others(held_out, rng).items()}
    distances = {name: torch.tensor(domain_distances(images, own, features)) for name, images in kinds.items()}
    shares = {name: (found > 1).float().mean().item() for name, found in distances.items()}
    rows = [
        (name, len(d), d.min().item(), d.median().item(), d.max().item(), f"{shares[name]:.1%}")
        for name, d in distances.items()
    ]
    publish(
        PAGE, args.page, model=model.card.get("weights", args.model), seed=args.seed, samples=SAMPLES, margin=MARGIN,
        quantile=QUANTILE, warned=shares["garments, held out"], table=markdown_table(COLUMNS, rows),
    )  # fmt: skip


if __name__ == "__main__":
    main()
