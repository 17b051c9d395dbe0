"""A teacher of one class alone: is it the gaps between classes that keep a latent space uneven?

    python benchmarks/one_class.py fashion.zip --label 0 --steps 2500 --out runs/one-class

Leaves --out/class.zip, prepared, and --out/teacher, for `benchmarks/geometry.py --teacher`. Given again, an
interrupted training goes on.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import torch
from torchvision.transforms.functional import to_pil_image

from gsd_cli.data.archive import ImageArchive


def write_class(data: Path, label: int, folder: Path) -> None:
    """The pictures of one label as PNGs. Raises SystemExit when there are none."""
    archive = ImageArchive(data)
    labels = archive.labels
    if labels is None or not (labels == label).any():
        raise SystemExit(f"{data} has no pictures labelled {label}")
    folder.mkdir(parents=True, exist_ok=True)
    for index in torch.nonzero(labels == label).flatten():
        to_pil_image(archive.uint8(index[None])[0]).save(folder / f"{index:06d}.png")


def main(argv: list[str]) -> None:
    """Write the class, prepare it, train its teacher."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a prepared, labelled data set")
    parser.add_argument("--label", type=int, default=0)
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--out", type=Path, default=Path("runs/one-class"))
    args = parser.parse_args(argv)
    pictures, prepared = args.out / "pictures", args.out / "class.zip"
    if not prepared.exists():
        write_class(args.data, args.label, pictures)
    size = ImageArchive(args.data).shape[-1]
    command = [sys.executable, "-m", "gsd_cli", "prepare", str(pictures), "-o", str(prepared), "--size", str(size)]
    subprocess.run([*command, "--fit-teacher", "small", "--fit-steps", str(args.steps)], check=True)


if __name__ == "__main__":
    main(sys.argv[1:])
