"""Reading a prepared data set by index, from any thread; a small one is kept in memory."""

from __future__ import annotations

import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gsd_cli.base.errors import GsdError
from gsd_cli.data.dataset_files import open_store
from gsd_cli.data.members import decode_member
from gsd_cli.data.pixels import from_uint8

KEEP_IN_MEMORY = 2**30
"""Data sets of at most this many decoded bytes are kept decoded, each image after its first use."""
_DAMAGE = (
    OSError, ValueError, TypeError, KeyError, AttributeError, SyntaxError, RuntimeError, EOFError, OverflowError,
    IndexError, zlib.error, zipfile.BadZipFile, tarfile.TarError,
)  # fmt: skip


class ImageArchive:
    """A prepared data set: a zip, a folder, or the index of shards (.json).

    `shape` is (C, H, W), `record` the record of `gsd prepare`. Raises GsdError (exit 3) when a file is missing,
    damaged or empty, or when images differ in size.
    """

    def __init__(self, path: Path):
        self.path = path
        self.shape: tuple[int, ...] = ()
        try:
            self._store = open_store(path)
            self.record = self._store.record
            if not isinstance(self.record, dict):
                raise ValueError("its record is no object")
            if not self._store.count:
                raise ValueError("it holds no images")
            if path.suffix != ".json":
                _ = self.labels  # fail now where the index does not fit
        except _DAMAGE as error:
            raise self._unreadable(error) from error
        self.shape = tuple(self._decode(0).shape)
        self._kept: Tensor | None = None
        if len(self) * int(np.prod(self.shape)) <= KEEP_IN_MEMORY:
            self._kept = torch.empty(len(self), *self.shape, dtype=torch.uint8)  # pages are allocated as they fill
            self._known = torch.zeros(len(self), dtype=torch.bool)

    def __len__(self) -> int:
        return self._store.count

    @property
    def in_memory(self) -> bool:
        """Whether images are kept decoded."""
        return self._kept is not None

    @cached_property
    def labels(self) -> Tensor | None:
        """Classes, int64 [N]; or attributes, bool [N, A], named by `record["attributes"]`; or None."""
        try:
            values = self._store.labels()
            if values is None:
                return None
            found = torch.tensor(values)
            if found.is_floating_point() and (found == found.round()).all():
                found = found.long()  # 3.0 is class 3
            if found.ndim == 2 and ((found == 0) | (found == 1)).all():
                return found.bool()
            if found.ndim != 1 or found.is_floating_point() or found.min() < 0:
                raise ValueError("its labels are neither class numbers nor lists of 0 and 1")
            return found.long()
        except _DAMAGE as error:
            raise self._unreadable(error) from error

    @cached_property
    def captions(self) -> tuple[str, ...] | None:
        """The text of each image; None without captions."""
        try:
            found = self._store.captions()
            if found is not None and not all(isinstance(text, str) for text in found):
                raise ValueError("its captions are no texts")
            return None if found is None else tuple(found)
        except _DAMAGE as error:
            raise self._unreadable(error) from error

    def batch(self, indices: Tensor) -> Tensor:
        """The images at `indices` [B], float32 [B, C, H, W] in [-1, 1]."""
        return from_uint8(self.uint8(indices))

    def uint8(self, indices: Tensor) -> Tensor:
        """The images at `indices` [B], uint8 [B, C, H, W]."""
        if self._kept is None:
            return torch.stack([self._decode(int(i)) for i in indices])
        for i in indices[~self._known[indices]].unique().tolist():
            self._kept[i] = self._decode(i)  # two threads may both do this; they write the same
            self._known[i] = True
        return self._kept[indices]

    def batches(self, batch_size: int) -> Iterator[Tensor]:
        """All images in order, float32 in [-1, 1]."""
        for indices in torch.arange(len(self)).split(batch_size):
            yield self.batch(indices)

    def _decode(self, index: int) -> Tensor:
        try:
            array = decode_member(self._store.read(index))
        except _DAMAGE as error:
            raise self._unreadable(error) from error
        image = torch.from_numpy(array.copy()).permute(2, 0, 1)
        if self.shape and image.shape != self.shape:
            raise self._unreadable(ValueError(f"image {index} has another size than the first"))
        return image

    def _unreadable(self, error: Exception) -> GsdError:
        return GsdError(
            f"cannot read the data set {self.path}: {error}", hint="make it with: gsd prepare SOURCE -o DATA.zip"
        )
