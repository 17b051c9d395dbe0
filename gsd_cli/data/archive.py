"""The prepared data set: one uncompressed zip of PNGs, as EDM, StyleGAN and SiD read it.

00000/img00000000.png ...   dataset.json {"labels": [[name, label], ...]}   gsd.json (provenance)
"""

from __future__ import annotations

import io
import json
import threading
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gsd_cli.data.pictures import from_uint8
from gsd_cli.errors import GsdError

KEEP_IN_MEMORY = 2**30
"""Data sets whose decoded bytes fit here are decoded once and kept."""
_DAMAGE = (OSError, ValueError, TypeError, KeyError, SyntaxError, zlib.error, zipfile.BadZipFile)
_EPOCH = (1980, 1, 1, 0, 0, 0)


class ArchiveWriter:
    """Writes images one by one; the same images give the same bytes."""

    def __init__(self, path: Path):
        self._zip = zipfile.ZipFile(path, "w", zipfile.ZIP_STORED)
        self._labels: list[tuple[str, int]] = []
        self._sum: np.ndarray | float = 0.0
        self._square: np.ndarray | float = 0.0
        self._shape: tuple[int, ...] = ()
        self.count = 0

    def add(self, image: np.ndarray, label: int | None) -> None:
        """image: uint8 [H, W, C]."""
        name = f"{self.count // 1000:05d}/img{self.count:08d}.png"
        buffer = io.BytesIO()
        Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(buffer, "png", compress_level=1)
        self._put(name, buffer.getvalue())
        if label is not None:
            self._labels.append((name, label))
        pixels = image.reshape(-1, image.shape[2]).astype(np.float64) / 127.5 - 1
        self._sum = self._sum + pixels.mean(0)
        self._square = self._square + (pixels**2).mean(0)
        self._shape = image.shape
        self.count += 1

    def close(self, provenance: dict[str, Any]) -> dict[str, Any]:
        """Finish the file; returns what was recorded: provenance, size, per-channel mean and variance
        of the pixels in [-1, 1]."""
        mean = self._sum / self.count
        height, _, channels = self._shape
        record = {
            **provenance,
            "images": self.count,
            "size": height,
            "channels": channels,
            "mean": np.asarray(mean).tolist(),
            "variance": np.asarray(self._square / self.count - mean**2).tolist(),
        }
        labels = self._labels if len(self._labels) == self.count else None
        self._put("dataset.json", json.dumps({"labels": labels}).encode())
        self._put("gsd.json", json.dumps(record, indent=1).encode())
        self._zip.close()
        return record

    def _put(self, name: str, payload: bytes) -> None:
        info = zipfile.ZipInfo(name, _EPOCH)
        info.external_attr = 0o644 << 16
        self._zip.writestr(info, payload)


class ImageArchive:
    """Random access to a prepared zip.

    `shape` is (C, H, W); `labels` an int64 tensor [N] or None; `record` what `gsd prepare` noted.
    Raises GsdError (exit 3) when the file is missing, damaged or empty.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
            names = sorted(n for n in self._zip.namelist() if n.lower().endswith(".png"))
            index = json.loads(self._zip.read("dataset.json")) if "dataset.json" in self._zip.namelist() else {}
            self.record = json.loads(self._zip.read("gsd.json")) if "gsd.json" in self._zip.namelist() else {}
            self._names = names
            self._lock = threading.Lock()
            if not names:
                raise GsdError(f"{path} holds no images", hint="make it with: gsd prepare SOURCE -o DATA.zip")
            self.shape: tuple[int, ...] = ()
            self.shape = tuple(self._decode(0).shape)
            self.labels = self._read_labels(index)
        except _DAMAGE as error:
            raise self._unreadable(error) from error
        self._memory: Tensor | None = None

    def __len__(self) -> int:
        return len(self._names)

    def batch(self, indices: Tensor) -> Tensor:
        """The images at `indices` [B], float32 [B, C, H, W] in [-1, 1]."""
        return from_uint8(self.uint8(indices))

    def uint8(self, indices: Tensor) -> Tensor:
        """The images at `indices` [B], uint8 [B, C, H, W]."""
        if len(self) * int(np.prod(self.shape)) > KEEP_IN_MEMORY:
            return torch.stack([self._decode(int(i)) for i in indices])
        if self._memory is None:
            self._memory = torch.stack([self._decode(i) for i in range(len(self))])
        return self._memory[indices]

    def batches(self, batch_size: int) -> Iterator[Tensor]:
        """All images in order, float32 in [-1, 1]."""
        for indices in torch.arange(len(self)).split(batch_size):
            yield self.batch(indices)

    def _decode(self, index: int) -> Tensor:
        try:
            with self._lock:  # ZipFile seeks: one reader at a time
                payload = self._zip.read(self._names[index])
            array = np.asarray(Image.open(io.BytesIO(payload)))
        except _DAMAGE as error:
            raise self._unreadable(error) from error
        array = array[..., None] if array.ndim == 2 else array
        image = torch.from_numpy(array.copy()).permute(2, 0, 1)
        if self.shape and image.shape != self.shape:
            raise self._unreadable(ValueError(f"{self._names[index]} has another size than the first image"))
        return image

    def _unreadable(self, error: Exception) -> GsdError:
        return GsdError(
            f"cannot read the data set {self.path}: {error}", hint="make it with: gsd prepare SOURCE -o DATA.zip"
        )

    def _read_labels(self, index: dict[str, Any]) -> Tensor | None:
        listed = index.get("labels") if isinstance(index, dict) else None
        if not listed:
            return None
        by_name = dict(listed)
        if set(by_name) != set(self._names):
            raise GsdError(f"dataset.json in {self.path} does not name its images")
        return torch.tensor([int(by_name[name]) for name in self._names])
