"""The real images that ship with a teacher: python -m scripts.bundled_images DATA.zip -o ASSET.zip --per-class N

A class-balanced subset of what `gsd prepare` wrote, in the same form: the labels and the record are kept, and each
PNG is compressed as well as Pillow can (`gsd prepare` stores pixels uncompressed).
"""

from __future__ import annotations

import argparse
import hashlib
import io
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from gsd_cli.base.atomic import atomic_file
from gsd_cli.data.dataset import ImageArchive
from gsd_cli.data.dataset_writers import ArchiveWriter
from gsd_cli.data.pixels import from_uint8


def subset(labels: Tensor, per_class: int, seed: int) -> Tensor:
    """Indices, rising, of `per_class` images of each class: those whose sha256 of "seed/index" is smallest.

    A hash, since random generators may change between versions of a library.
    """

    def rank(index: int) -> str:
        return hashlib.sha256(f"{seed}/{index}".encode()).hexdigest()

    chosen: list[int] = []
    for label in labels.unique():
        members = torch.where(labels == label)[0].tolist()
        if len(members) < per_class:
            raise SystemExit(f"class {int(label)} has {len(members)} images, not {per_class}")
        chosen += sorted(members, key=rank)[:per_class]
    return torch.tensor(sorted(chosen))


def smallest_png(image: Tensor) -> bytes:
    """uint8 [C, H, W] as a PNG."""
    pixels = image.permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(buffer, "png", compress_level=9)
    return buffer.getvalue()


def main() -> None:
    """Write one asset, and say how large it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--per-class", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    archive = ImageArchive(given.data)
    if archive.labels is None or archive.labels.ndim != 1:
        raise SystemExit(f"{given.data} has no classes")
    indices = subset(archive.labels, given.per_class, given.seed)
    images = archive.uint8(indices)
    pixels = from_uint8(images).double()
    record = {
        **archive.record,
        "images": len(indices),
        "mean": pixels.mean((0, 2, 3)).tolist(),
        "variance": pixels.var((0, 2, 3), correction=0).tolist(),
        "subset": f"{given.per_class} of each class, those with the smallest sha256 of '{given.seed}/index'",
    }
    with atomic_file(given.output) as temporary:
        writer = ArchiveWriter(temporary, small_index=True)
        for image, label in zip(images, archive.labels[indices].tolist(), strict=True):
            writer.add(smallest_png(image), label)
        writer.close(record)
    size = given.output.stat().st_size
    print(f"{given.output}: {len(indices):,} images, {size:,} bytes, {size / len(indices):.0f} an image")


if __name__ == "__main__":
    main()
