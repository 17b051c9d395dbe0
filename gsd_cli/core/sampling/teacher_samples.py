"""The teacher's own samples in place of real images: generated once and cached as a prepared data set."""

from __future__ import annotations

import copy
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gsd_cli.base.atomic import atomic_file, require_writable, sweep
from gsd_cli.base.errors import GsdError
from gsd_cli.base.storage import require_room
from gsd_cli.catalogue.registry import SAMPLES_BY
from gsd_cli.compute.device import full_precision, to_device
from gsd_cli.compute.random import normal_rows
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.models.fingerprint import teacher_fingerprint
from gsd_cli.core.models.teacher import Teacher
from gsd_cli.core.sampling.samplers import parse_sampler
from gsd_cli.data.arrays import encode_npy
from gsd_cli.data.dataset import ImageArchive
from gsd_cli.data.dataset_writers import ArchiveWriter
from gsd_cli.data.image_writers import encode_image
from gsd_cli.data.pixels import to_uint8

_DAMAGE = (OSError, ValueError, EOFError, RuntimeError, zlib.error, zipfile.BadZipFile, GsdError)


@dataclass(frozen=True)
class TeacherSamples:
    """`count` images of a teacher by the sampler SAMPLES_BY: image k is a function of (teacher, seed, k).

    Its noise comes from a separate stream, so no sample shares noise with the images a generator is
    measured on. Image k of a class-conditional teacher has class k modulo the number of classes.
    """

    teacher: Teacher
    count: int
    seed: int
    cache: Path

    @cached_property
    def path(self) -> Path:
        """The data set; its name holds everything the images depend on."""
        name = f"{teacher_fingerprint(self.teacher)}-{SAMPLES_BY}-{self.count}-seed{self.seed}.zip"
        return self.cache / "teacher-samples" / name

    def damage(self) -> str | None:
        """Why the cached file cannot be used; None for a complete one."""
        return _damage(self.path, self.count, self.teacher.image_shape)

    def make(
        self, device: torch.device, batch_size: int, on_image: Callable[[int], None], check: Callable[[], object]
    ) -> None:
        """Write the data set batch by batch; batches of an earlier, interrupted run are reused.

        on_image(done) counts images; `check` is called at every network call and may raise. Raises GsdError
        (exit 8) before sampling when the cache has no room for it.
        """
        require_writable(self.path, folder=False)
        require_room(self.path, self.count * torch.Size(self.teacher.image_shape).numel())
        work = self.path.with_suffix("")
        sweep(work)
        model = to_device(copy.deepcopy(self.teacher.denoiser), device, training=False)
        self.teacher.autoencoder.to(device)
        parts = []
        for start in range(0, self.count, batch_size):
            rows = range(start, min(self.count, start + batch_size))
            part = work / f"{rows[0]}-{rows[-1]}.zip"
            if _damage(part, len(rows), self.teacher.image_shape) is not None:

                def on_step(step: int, steps: int, rows: range = rows) -> None:
                    check()
                    on_image(rows.start + len(rows) * step // steps)

                images = self._sample(model, rows, device, on_step)
                _write(part, ((image, label) for image, label in zip(images, self._labels(rows), strict=True)), {})
            parts.append(part)
            on_image(rows.stop)
        _write(self.path, (pair for part in parts for pair in _read(part)), self._record())
        shutil.rmtree(work, ignore_errors=True)

    @torch.no_grad()
    def _sample(
        self, model: Denoiser, rows: range, device: torch.device, on_step: Callable[[int, int], None]
    ) -> Tensor:
        """Images uint8 [len(rows), C, H, W], rounded like saved images."""
        noise = normal_rows(rows, model.shape, self.seed, "teacher-samples").to(device)
        drawn = model.conditions.draw(lambda count: torch.tensor(rows) % count).to(device)
        with full_precision(device):  # the cache serves every precision
            codes = parse_sampler(SAMPLES_BY)(model.with_condition(drawn), noise, rows, on_step)
            return to_uint8(self.teacher.autoencoder.decode(codes))

    def _labels(self, rows: range) -> list[int | None]:
        classes = self.teacher.denoiser.classes
        return [row % classes if classes else None for row in rows]

    def _record(self) -> dict[str, Any]:
        channels, size, _ = self.teacher.image_shape
        return {
            "source": f"samples of the teacher {self.teacher.name}",
            "classes": self.teacher.class_names,
            "teacher": teacher_fingerprint(self.teacher),
            "sampler": SAMPLES_BY,
            "seed": self.seed,
            "images": self.count,
            "size": size,
            "channels": channels,
        }


def _write(target: Path, images: Iterator[tuple[Tensor, int | None]], record: dict[str, Any]) -> None:
    """Write a prepared data set of (uint8 [C, H, W], class); it gets its name when it is complete."""
    with atomic_file(target) as temporary:
        writer = ArchiveWriter(temporary)
        try:
            for image, label in images:
                pixels = image.permute(1, 2, 0).numpy()
                # unlike those of `gsd prepare`, these PNGs are compressed: they lie in a cache
                writer.add(encode_image(pixels) if pixels.shape[2] in (1, 3) else encode_npy(pixels), label)
            writer.close(record)
        except BaseException:
            writer.abandon()
            raise


def _read(path: Path) -> Iterator[tuple[Tensor, int | None]]:
    archive = ImageArchive(path)
    images = archive.uint8(torch.arange(len(archive)))
    return zip(images, [None] * len(images) if archive.labels is None else archive.labels.tolist(), strict=True)


def _damage(path: Path, count: int, shape: tuple[int, int, int]) -> str | None:
    """Why a file is not a data set of `count` readable images of a shape; None when it is."""
    try:
        with zipfile.ZipFile(path) as archive:
            if (name := archive.testzip()) is not None:
                return f"{name} is damaged"
        images = ImageArchive(path)
    except _DAMAGE as error:
        return (str(error).splitlines() or [type(error).__name__])[0]
    return None if len(images) == count and images.shape == shape else "it holds other images"
